package server

import (
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/page"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

//go:embed page.html
var files embed.FS

// newPage reads the template of the status page.
func newPage() (*page.Template, error) {
	return page.Parse(files, "page.html", template.FuncMap{
		"extra": func(c gather.Counters) uint64 { return c.Hedged + c.Retried },
		"percent": func(n, of uint64) string {
			if of == 0 {
				return "–"
			}
			return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(of))
		},
	})
}

// servePage shows all routes.
func (s *Server) servePage(w http.ResponseWriter, _ *http.Request) {
	about := page.Agent{Kind: "root", Address: s.cfg.Address, At: time.Now()}
	if err := s.Ready(); err != nil {
		about.Trouble = err.Error()
	}
	b, err := s.page.Execute(struct {
		Title, ID string
		Agent     page.Agent
		Routes    []RouteStatus
	}{"Routes", s.cfg.ID, about, s.Status()})
	if err != nil {
		httpapi.WriteError(w, httpapi.Errorf(http.StatusInternalServerError, "", "%v", err))
		return
	}
	page.Write(w, b)
}
