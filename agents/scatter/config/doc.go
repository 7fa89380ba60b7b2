// Package config reads the configuration of the agent scatter: HCL or JSON files, flags,
// and the environment, in the order that package agent gives them.
//
// What can be known to be wrong without the network is found here, with the place
// where it stands: first what cannot be read, then all that is out of bounds.
package config
