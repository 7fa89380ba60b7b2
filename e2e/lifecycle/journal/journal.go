// Package journal is what the application of the lifecycle tests tells of its
// life. It sends each entry to a collector outside of Nomad before it goes on, so
// that nothing is lost when it, its node or its allocation's directory is.
package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// What an entry is about.
const (
	Started  = "started"  // the process listens at Addr; Value is what it begins with
	Restored = "restored" // Value is what it was given
	Again    = "again"    // it was given a checkpoint once more, and has ignored it
	Corrupt  = "corrupt"  // what it was given is not what was saved
	Saving   = "saving"   // it was asked for its state; Value is what it gave
	Hook     = "hook"     // a hook has come, other than save and restore
	Status   = "status"   // an event of its management socket, in Name
	Signal   = "signal"   // it was asked to end
)

// Entry is one thing that has happened.
type Entry struct {
	What  string    `json:"what"`
	Name  string    `json:"name,omitempty"` // of the hook or of the event
	At    time.Time `json:"at"`
	Job   string    `json:"job"`
	Group string    `json:"group"`
	Task  string    `json:"task"`
	Alloc string    `json:"alloc"`
	Index string    `json:"index,omitempty"`
	Node  string    `json:"node,omitempty"`
	PID   int       `json:"pid,omitempty"` // as the process sees it; 0 if it was none that tells
	Addr  string    `json:"addr,omitempty"`
	Value int64     `json:"value"`
	// Told is what the hook or the event said.
	Told Told `json:"told,omitzero"`
}

// Told is what a hook or an event of the plugin says.
type Told struct {
	Event       string    `json:"event,omitempty"`
	State       string    `json:"state,omitempty"`
	Soon        bool      `json:"soon,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Final       bool      `json:"final,omitempty"`
	Detail      string    `json:"detail,omitempty"`
	Deadline    time.Time `json:"deadline,omitzero"`
	RemainingMS int64     `json:"remaining_ms,omitempty"`
	KillMS      int64     `json:"kill_ms,omitempty"`
	Attempt     int       `json:"attempt,omitempty"`
	Job         string    `json:"job,omitempty"`
	Group       string    `json:"group,omitempty"`
	Task        string    `json:"task,omitempty"`
	AllocID     string    `json:"alloc_id,omitempty"`
}

// Send tells the collector at url, and returns when it knows.
func Send(ctx context.Context, url string, e Entry) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("tell the journal: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/entry", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("tell the journal: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("tell the journal: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // the status is all that counts
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("tell the journal: status %d", resp.StatusCode)
	}
	return nil
}
