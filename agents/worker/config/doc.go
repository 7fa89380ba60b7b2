// Package config reads the configuration of the worker: HCL or JSON files, flags, and the
// environment, in the order that package agent gives them.
package config
