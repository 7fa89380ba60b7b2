package config

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// pattern is one that is taken.
type pattern struct{ text, route, from string }

// checkPattern adds what is wrong with the pattern of a route, given those that are taken
// by others. It says whether it may be taken.
func checkPattern(p *agent.Problems, v agent.Value[string], taken []pattern) bool {
	if err := register(v.V); err != nil {
		_, why, _ := strings.Cut(err.Error(), ": ") // the pattern is said here
		p.Addf(v.From, "pattern", "%q is none of http.ServeMux (%s); write it like \"GET /search\"", v.V, why)
		return false
	}
	if err := checkPath(v.V); err != nil {
		p.Addf(v.From, "pattern", "%q %v", v.V, err)
		return false
	}
	for _, other := range taken {
		if register(other.text, v.V) != nil {
			p.Addf(v.From, "pattern", "%q matches requests that %q of route %q, from %s, matches too, and neither is the more specific one; change one of them", v.V, other.text, other.route, other.from)
			return false
		}
	}
	return true
}

// register tries patterns together. A ServeMux says what it does not take by a panic only.
func register(patterns ...string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	mux := http.NewServeMux()
	for _, text := range patterns {
		mux.Handle(text, http.NotFoundHandler())
	}
	return nil
}

// methodOf is the method of a pattern; "": all.
func methodOf(text string) string { return text[:max(0, strings.IndexAny(text, " \t"))] }

// checkPath keeps the agent's own paths free, also those that it may have one day.
func checkPath(text string) error {
	_, path, _ := strings.Cut(strings.TrimPrefix(text, methodOf(text)), "/") // without method and host
	first, _, _ := strings.Cut(path, "/")
	if name, err := url.PathUnescape(first); err == nil {
		first = name // as the ServeMux does
	}
	switch {
	case first == "":
		return errors.New(`is for /, which is the agent's own; write it like "GET /search"`)
	case strings.HasPrefix(first, "{"):
		return errors.New(`is for paths of the agent's own, such as /v1/routes, too; begin the path with a name, like "GET /search/{index}"`)
	}
	switch first {
	case "metrics", "v1", "lifecycle", "debug":
		return fmt.Errorf("is for paths under /%s, which are the agent's own; begin the path with another name", first)
	}
	return nil
}
