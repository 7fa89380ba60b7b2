package progress_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/demo/progress"
)

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := progress.New(&out)
	p.Say("one")
	for _, part := range []string{"t", "wo\nthr", "ee\n\nrest"} {
		n, err := io.WriteString(p, part)
		must.NoError(t, err)
		must.Eq(t, len(part), n)
	}
	var texts []string
	for line := range strings.Lines(out.String()) {
		stamp, text, ok := strings.Cut(line, "s  ")
		must.True(t, ok)
		_, err := time.ParseDuration(strings.TrimSpace(stamp) + "s")
		must.NoError(t, err)
		texts = append(texts, text)
	}
	must.Eq(t, []string{"one\n", "two\n", "three\n", "\n"}, texts)
}
