// Package jobs holds the job templates, and lets Go programs use them as they are.
//
// The templates are plain files for `nomad job run`: typed and described variables
// with defaults, so that each runs unchanged. This package embeds the same files for
// the demo, the benchmarks and the end-to-end tests, which therefore run what a
// person runs.
package jobs
