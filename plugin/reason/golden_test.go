package reason

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// golden is a file of testdata: answers of Nomad's API, without what is long and
// does not matter, and the verdict. Most were recorded from a cluster of Nomad
// 1.11.3 at the moment when the driver was asked to stop the task; "made" says
// how one was made that was not.
type golden struct {
	Made string `json:"made,omitempty"`
	Task string `json:"task"`
	// Stopping says that the cause must be looked for beside the task.
	Stopping  bool            `json:"stopping,omitempty"`
	Alloc     json.RawMessage `json:"alloc"`
	AllocGone bool            `json:"alloc_gone,omitempty"`
	Job       json.RawMessage `json:"job,omitempty"`
	JobGone   bool            `json:"job_gone,omitempty"`
	Node      json.RawMessage `json:"node,omitempty"`
	Want      json.RawMessage `json:"want"`
}

// goldens reads all files of testdata, by their names without ".json".
func goldens(t testing.TB) map[string]golden {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	must.NoError(t, err)
	must.Positive(t, len(files))
	all := make(map[string]golden, len(files))
	for _, file := range files {
		text, err := os.ReadFile(file)
		must.NoError(t, err)
		var g golden
		must.NoError(t, strict(text, &g), must.Sprint(file))
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = g
	}
	return all
}

// strict decodes JSON and refuses unknown fields, so that no typing error in a
// file makes a test pass.
func strict(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// observation decodes the answers as package api does.
func (g golden) observation(t testing.TB) Observation {
	t.Helper()
	o := Observation{Task: g.Task, AllocGone: g.AllocGone, JobGone: g.JobGone, Stopping: g.Stopping}
	o.Alloc = new(api.Allocation)
	must.NoError(t, json.Unmarshal(g.Alloc, o.Alloc))
	if g.Job != nil {
		o.Job = new(api.Job)
		must.NoError(t, json.Unmarshal(g.Job, o.Job))
	}
	if g.Node != nil {
		o.Node = new(api.Node)
		must.NoError(t, json.Unmarshal(g.Node, o.Node))
	}
	return o
}

// verdict is the one that the file wants.
func (g golden) verdict(t testing.TB) Verdict {
	t.Helper()
	var v Verdict
	must.NoError(t, strict(g.Want, &v))
	return v
}

func TestClassify_Golden(t *testing.T) {
	seen := make(map[Reason]bool)
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			o := g.observation(t)
			want := g.verdict(t)
			must.Eq(t, want, Classify(o))
			seen[want.Reason] = true

			// The files have what Why asks for, no more and no less.
			job, node := o.needs()
			must.Eq(t, o.Job != nil || o.JobGone, job, must.Sprint("job"))
			must.Eq(t, o.Node != nil, node, must.Sprint("node"))

			// Without it nothing is called final by a guess.
			o.Job, o.JobGone, o.Node = nil, false, nil
			if got := Classify(o); got.Final {
				must.False(t, job, must.Sprintf("%+v", got))
			}
		})
	}
	for _, r := range Reasons() {
		must.True(t, seen[r], must.Sprintf("no file for %s", r))
	}
}

// What the event stream leaves out of an allocation does not matter to whether a
// stop has been decided.
func TestClassify_Early(t *testing.T) {
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			o := g.observation(t)
			o.Alloc.Job, o.Job, o.AllocGone, o.JobGone, o.Node, o.Stopping = nil, nil, false, false, nil, false
			v, want := Classify(o), g.verdict(t)
			if g.Stopping || g.AllocGone { // which the stream does not tell
				want = Verdict{Reason: Unknown}
			}
			must.Eq(t, want.Decided, v.Decided)
			must.Eq(t, want.Whole, v.Whole)
			must.Eq(t, want.Detail, v.Detail)
		})
	}
}

// Whatever an answer holds, a verdict is one.
func FuzzClassify(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add([]byte(g.Alloc), []byte(g.Job), []byte(g.Node), g.Task)
	}
	f.Add([]byte(`{"DesiredStatus":"stop","DesiredDescription":"alloc not needed due to job update","Name":"j.g[99999999999999999999]"}`),
		[]byte(`{"TaskGroups":[null,{"Name":null}]}`), []byte(nil), "")
	f.Add([]byte(`{"TaskStates":{"t":{"Events":[null,{"Type":"Terminated","Details":{"exit_code":"x"}}]}}}`), []byte(nil), []byte(nil), "t")
	f.Fuzz(func(t *testing.T, alloc, job, node []byte, task string) {
		o := Observation{Task: task}
		if json.Unmarshal(alloc, &o.Alloc) != nil || len(job) > 0 && json.Unmarshal(job, &o.Job) != nil || len(node) > 0 && json.Unmarshal(node, &o.Node) != nil {
			return // not an answer
		}
		v := Classify(o)
		must.SliceContains(t, Reasons(), v.Reason)
		must.Eq(t, v.Detail, clean(v.Detail))
		if !v.Decided {
			must.Eq(t, Verdict{Reason: Unknown}, v)
		}
		if o.Alloc != nil {
			o.needs()
		}
	})
}
