// Package catalog shows in the Consul catalog who leads: the service of a candidate is
// registered at the local agent with a tag that says whether it leads, so that
// leader.<service>.service.consul resolves to the leader.
//
// What is promised: the tag follows the leadership of a live process within
// milliseconds if the local agent answers, and as soon as it answers otherwise. A
// resigning leader loses its tag before it lets go of the lock. Each service has an
// alias check on the elector's own service: when the elector dies, it is critical as
// soon as the elector is, and DNS leaves it out.
//
// What is not: that one instance at most has the tag. Catalog and DNS are caches. A
// frozen or cut off leader keeps its tag, until its check is critical, while the next
// one may lead already. Clients that must not reach an old leader check the fencing
// token where they write, or ask the elector.
package catalog
