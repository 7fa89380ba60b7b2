package config

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
)

// defaultK is how many elements the answer of top-k has.
const defaultK = 10

// Names of mergers.
const (
	concat    = "concat"
	jsonArray = "json-array"
	ndjson    = "ndjson"
	jsonMerge = "json-merge"
	sum       = "sum"
	topK      = "top-k"
	container = "container"
)

// mergers are all names.
func mergers() []string { return []string{concat, jsonArray, ndjson, jsonMerge, sum, topK, container} }

// streams says whether a merger writes before it has everything.
func streams(name string) bool {
	return slices.Contains([]string{concat, jsonArray, ndjson, container}, name)
}

// merger makes the merger of a route. It is nil if there is something wrong with it.
func (b *routeBlock) merger(p *agent.Problems) merge.Merger {
	name := b.Merge.V
	if !slices.Contains(mergers(), name) {
		p.Addf(b.Merge.From, "merge", "%q is not one of %s", name, strings.Join(mergers(), ", "))
		return nil
	}
	if b.TopK != nil && name != topK {
		p.Addf(place(b.TopK.Body), "top_k", "is for merge = %q only, and it is %q", topK, name)
	}
	if b.Container != nil && name != container {
		p.Addf(place(b.Container.Body), "container", "is for merge = %q only, and it is %q", container, name)
	}
	if b.Stream.V && !streams(name) {
		p.Addf(b.Stream.From, "stream", "merge = %q has no answer before the last leaf's; leave stream out", name)
	}
	// What these keep becomes the answer: a limit of it is one of them.
	keep := int64(max(0, b.MaxAnswer.V))
	switch name {
	case concat:
		return merge.Concat{}
	case ndjson:
		return merge.NDJSON{}
	case jsonMerge:
		m, err := merge.NewJSONMerge(merge.JSONMergeConfig{MaxBytes: keep})
		return made(p, b.place(), m, err, nil)
	case sum:
		m, err := merge.NewSum(merge.SumConfig{MaxBytes: keep})
		return made(p, b.place(), m, err, nil)
	case topK:
		return b.topK(p, keep)
	case container:
		return b.container(p)
	default:
		return merge.JSONArray{}
	}
}

func (b *routeBlock) topK(p *agent.Problems, keep int64) merge.Merger {
	t := b.TopK
	if t == nil {
		p.Addf(b.Merge.From, "merge", `%q needs a block top_k in the route of a file, with for example field = "score"`, topK)
		return nil
	}
	t.K.Default(defaultK)
	if t.MaxK.IsSet() && t.MaxK.V == 0 { // which is the default to package merge
		p.Addf(t.MaxK.From, "max_k", "0 is less than 1")
		return nil
	}
	m, err := merge.NewTopK(merge.TopKConfig{
		K: t.K.V, KParam: t.KParam.V, MaxK: t.MaxK.V, Field: t.Field.V, Ascending: t.Ascending.V,
		Items: t.Items.V, Unique: t.Unique.V, MaxBytes: keep,
	})
	return made(p, place(t.Body), m, err, map[string]setting{
		"K": {"k", t.K.From}, "MaxK": {"max_k", t.MaxK.From}, "Field": {"field", t.Field.From}, "Items": {"items", t.Items.From},
		"Unique": {"unique", t.Unique.From},
	})
}

func (b *routeBlock) container(p *agent.Problems) merge.Merger {
	c := b.Container
	if c == nil {
		p.Addf(b.Merge.From, "merge", `%q needs a block container in the route of a file, with for example url = "http://127.0.0.1:9000/merge"`, container)
		return nil
	}
	c.FoldBytes.Default(merge.DefaultFoldBytes)
	c.FoldParts.Default(merge.DefaultFoldParts)
	agent.Between(p, "fold_bytes", c.FoldBytes, 1, maxBytes)
	agent.Between(p, "fold_parts", c.FoldParts, 1, maxCount)
	m, err := merge.NewContainer(merge.ContainerConfig{URL: c.URL.V, FoldBytes: max(0, c.FoldBytes.V), FoldParts: max(0, c.FoldParts.V)})
	if err == nil && !onLoopback(c.URL.V) {
		p.Addf(c.URL.From, "url", "%q is not on loopback; the merge container runs beside this agent: give 127.0.0.1, [::1] or localhost", c.URL.V)
	}
	return made(p, place(c.Body), m, err, map[string]setting{
		"URL": {"url", c.URL.From}, "FoldBytes": {"fold_bytes", c.FoldBytes.From}, "FoldParts": {"fold_parts", c.FoldParts.From},
	})
}

// onLoopback asks no name server: what the answers of leaves are sent to must not depend on
// one.
func onLoopback(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// made is the merger that package merge has made, or nil and what it said of the settings.
func made[M merge.Merger](p *agent.Problems, from string, m M, err error, settings map[string]setting) merge.Merger {
	if err != nil {
		blame(p, from, err, settings)
		return nil
	}
	return m
}

// setting is one of the configuration, and where it was given.
type setting struct{ name, from string }

// blame adds an error of a package that begins with its own name of the setting, and a
// colon. From is the place of settings that were not given.
func blame(p *agent.Problems, from string, err error, settings map[string]setting) {
	name, problem, _ := strings.Cut(err.Error(), ": ")
	s, known := settings[name]
	switch {
	case !known:
		p.Addf(from, "", "%v", err)
	case s.from == "":
		p.Addf(from, s.name, "%s", problem)
	default:
		p.Addf(s.from, s.name, "%s", problem)
	}
}
