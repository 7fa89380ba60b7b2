// Package cli is the command line of the worker.
package cli
