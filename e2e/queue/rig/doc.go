// Package rig runs brokers and workers of a queue in processes of their own, breaks
// them, their networks and their Consul, and checks that nothing was lost and nothing
// done twice.
package rig
