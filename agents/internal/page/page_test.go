package page

import (
	"net/http/httptest"
	"testing"
	"testing/fstest"
	"time"

	"github.com/shoenig/test/must"
)

func TestAgo(t *testing.T) {
	for ms, want := range map[int64]string{
		0: "–", 250: "250ms", 1500: "1.5 s", 61_000: "1 min 1 s", 3_660_000: "1 h 1 min", 86_400_000 * 3: "3 days",
	} {
		must.Eq(t, want, Ago(ms))
	}
}

func TestPage(t *testing.T) {
	tmpl, err := Parse(fstest.MapFS{"x.html": {Data: []byte(`{{ define "main" }}<p>{{ thousands .N }} {{ .Name }}</p>{{ end }}`)}}, "x.html", nil)
	must.NoError(t, err)
	b, err := tmpl.Execute(struct {
		Title string
		Agent Agent
		N     int
		Name  string
	}{"T", Agent{Kind: "root", Address: "127.0.0.1:1", Trouble: "none", At: time.Unix(0, 0)}, 12345, "<script>"})
	must.NoError(t, err)
	w := httptest.NewRecorder()
	Write(w, b)
	for _, text := range []string{"<title>T</title>", "12\u2009345 &lt;script&gt;", "As the root at <code>127.0.0.1:1</code>", "This root cannot serve: none.", "1970-01-01 00:00:00"} {
		must.StrContains(t, w.Body.String(), text)
	}
	must.StrContains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
	_, err = Parse(fstest.MapFS{}, "x.html", nil)
	must.Error(t, err)
}
