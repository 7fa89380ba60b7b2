// Package journal is what a candidate of the tests tells about itself, in a way
// that its death cannot take back: events as JSON lines on its standard output,
// and the spans in which it trusted to lead in a memory-mapped file.
//
// All times are on the clock of election.Now, which all processes of a machine
// share.
package journal
