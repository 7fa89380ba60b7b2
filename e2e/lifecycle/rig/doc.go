// Package rig evicts the application of the lifecycle tests in every way that
// Nomad knows, and hears from it and from the plugin's hooks what they were told.
// The tests and the benchmark share it.
package rig
