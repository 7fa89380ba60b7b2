package graceful_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/demo/graceful"
)

func options(t *testing.T) graceful.Options {
	t.Helper()
	content, err := graceful.FindContent(graceful.DefaultRoot)
	must.NoError(t, err)
	return graceful.Options{
		Name: "web", Driver: "raw_exec", Count: 2, DrainWait: 3 * time.Second, LongestGet: 4 * time.Second,
		ConsulAddr: "http://127.0.0.1:8500", Content: content,
	}
}

func TestFindContent(t *testing.T) {
	content, err := graceful.FindContent(graceful.DefaultRoot)
	must.NoError(t, err)
	must.Between(t, 8<<10, content.Bytes(), 64<<10)

	_, err = graceful.FindContent(t.TempDir())
	must.ErrorContains(t, err, "no copyright file")
	_, err = graceful.FindContent("/nowhere")
	must.ErrorContains(t, err, "look for a file to serve")
}

// TestVariants checks that the variants differ in what the comparison is about, and
// in nothing else.
func TestVariants(t *testing.T) {
	cases := map[string]struct {
		variant   graceful.Variant
		driver    string
		delay     time.Duration
		lifecycle bool
	}{
		"none named":  {variant: "", driver: "lifecycle-raw_exec", lifecycle: true},
		"ours":        {variant: graceful.Ours, driver: "lifecycle-raw_exec", lifecycle: true},
		"stock delay": {variant: graceful.StockDelay, driver: "raw_exec", delay: 3 * time.Second},
		"stock":       {variant: graceful.Stock, driver: "raw_exec"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			opts := options(t)
			opts.Variant = tc.variant
			job, err := opts.Job(7)
			must.NoError(t, err)
			must.Eq(t, "7", job.Meta["release"])
			task := job.TaskGroups[0].Tasks[0]
			must.Eq(t, tc.driver, task.Driver)
			must.Eq(t, tc.delay, task.ShutdownDelay)
			must.Eq(t, "SIGQUIT", task.KillSignal)
			must.Eq(t, 12*time.Second, *task.KillTimeout)
			_, has := task.Config["lifecycle"]
			must.Eq(t, tc.lifecycle, has)
			delete(task.Config, "lifecycle")

			opts.Variant = graceful.Ours
			ours, err := opts.Job(7)
			must.NoError(t, err)
			oursTask := ours.TaskGroups[0].Tasks[0]
			delete(oursTask.Config, "lifecycle")
			oursTask.Driver, oursTask.ShutdownDelay = task.Driver, task.ShutdownDelay
			must.Eq(t, ours, job)
		})
	}
}

func TestUnknownVariant(t *testing.T) {
	opts := options(t)
	opts.Variant = "mine"
	_, err := opts.Job(1)
	must.ErrorContains(t, err, `no variant "mine"`)
}

func TestDockerJob(t *testing.T) {
	opts := options(t)
	opts.Driver = "docker"
	job, err := opts.Job(1)
	must.NoError(t, err)
	task := job.TaskGroups[0].Tasks[0]
	must.Eq(t, "lifecycle-docker", task.Driver)
	must.SliceLen(t, 2, task.Templates) // the page, and the program of the slow download
	must.Eq(t, "local/srv/cgi-bin/slow", *task.Templates[1].DestPath)
}

func TestStreams(t *testing.T) {
	content := options(t).Content
	for _, driver := range []string{"raw_exec", "docker"} {
		must.SliceLen(t, 1, content.Streams(driver, 10, 0))
		streams := content.Streams(driver, 10, 2)
		must.SliceLen(t, 2, streams)
		must.Eq(t, graceful.Pages, streams[0].Name)
		must.Eq(t, graceful.Downloads, streams[1].Name)
		must.Positive(t, streams[1].BodyBytes)
	}
}
