// Package history is what the workers of a chaos run write down, and the check that
// what they saw of each item is possible: that it was handed out to one attempt after
// the other, that one of them at most was accepted, and that nothing was taken from an
// attempt that was over.
package history
