// Package page is what the status pages of agents have in common: HTML that needs no
// script, and can be read without its style as well.
package page

import (
	"bytes"
	_ "embed" // the layout
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed layout.html
var layout string

// Agent is who tells.
type Agent struct {
	Kind    string // "broker", "root"
	Address string
	Trouble string // why it cannot serve; empty: it can
	At      time.Time
}

// Template is a page. It is executed with a struct that has the fields Title and Agent
// besides its own.
type Template struct{ t *template.Template }

// Parse reads a file that defines "main". Besides funcs it has ago, for milliseconds, and
// thousands, for numbers.
func Parse(files fs.FS, file string, funcs template.FuncMap) (*Template, error) {
	t, err := template.New("layout").Funcs(template.FuncMap{"ago": Ago, "thousands": Thousands}).Funcs(funcs).Parse(layout)
	if err == nil {
		_, err = t.ParseFS(files, file)
	}
	if err != nil {
		return nil, err
	}
	return &Template{t}, nil
}

// Execute makes the page.
func (t *Template) Execute(data any) ([]byte, error) {
	var b bytes.Buffer
	err := t.t.Execute(&b, data)
	return b.Bytes(), err
}

// Write sends a page.
func Write(w http.ResponseWriter, page []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	// Nothing that a name smuggles in can load or run anything.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(page) // it fails only when nobody is left to be told
}

// Ago writes milliseconds as people say them.
func Ago(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d <= 0:
		return "–"
	case d < time.Second:
		return d.String()
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// Thousands writes a number with thin spaces between thousands.
func Thousands(n any) string {
	text := fmt.Sprint(n)
	if f, is := n.(float64); is {
		text = strconv.FormatFloat(f, 'f', 0, 64)
	}
	var b strings.Builder
	for i, digit := range text {
		if i > 0 && (len(text)-i)%3 == 0 {
			b.WriteRune('\u2009')
		}
		b.WriteRune(digit)
	}
	return b.String()
}
