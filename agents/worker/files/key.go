package files

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// marker is the directory with the attempts of all queues.
const marker = ".wq"

// running ends the name of a directory in which an attempt works.
const running = ".run"

// key names an attempt: item, claim, and the number of parts of its output's name.
type key struct {
	id    queue.ID
	claim uint64
	depth int
}

func (k key) String() string { return fmt.Sprintf("%s.%d.%d", k.id, k.claim, k.depth) }

// parseKey reads what String has written.
func parseKey(s string) (key, bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return key{}, false
	}
	id, err := queue.ParseID(parts[0])
	claim, err2 := strconv.ParseUint(parts[1], 10, 64)
	depth, err3 := strconv.ParseUint(parts[2], 10, 8)
	k := key{id, claim, int(depth)}
	return k, err == nil && err2 == nil && err3 == nil && depth > 0 && k.String() == s
}

// kept is what is left of an attempt in a place.
type kept struct {
	key   key
	run   bool      // it works, or did when its worker died
	since time.Time // when it was last changed
}

// markerForm is the path or URL of a kept output.
var markerForm = regexp.MustCompile(`^(|.*/)\.wq/[a-z0-9][a-z0-9_-]{0,62}/[0-9]+-[0-9]+\.[0-9]+\.[0-9]+/(.+)$`)

// published is the name that a kept output has when it is published: base with the slash
// at its end, and the rest. False: the name is none of a kept output.
func published(name string) (base, rest string, is bool) {
	m := markerForm.FindStringSubmatch(name)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

var fieldForm = regexp.MustCompile(`\{[^{}]*\}`)

// CheckName says whether outputs can be named so.
func CheckName(template string) error {
	for _, f := range fieldForm.FindAllString(template, -1) {
		switch f {
		case "{path}", "{name}", "{stem}", "{ext}", "{dir}", "{id}", "{key}":
			continue
		}
		if !strings.HasPrefix(f, "{attr.") {
			return fmt.Errorf("%s is not one of {path}, {dir}, {name}, {stem}, {ext}, {id}, {key} and {attr.…}", f)
		}
	}
	if rest := fieldForm.ReplaceAllString(template, ""); strings.ContainsAny(rest, "{}") {
		return fmt.Errorf("%q has a brace that is no pair", template)
	}
	return nil
}

// outputName is the name of an item's output below the place of outputs. Input is the name
// of its input, empty if there is not exactly one.
func (f *Files) outputName(a *attempt.Attempt, input string) (string, error) {
	if input == "" {
		input = a.ID.String()
	}
	base := path.Base(input)
	ext := path.Ext(base)
	if ext == base {
		ext = "" // .profile
	}
	name := fieldForm.ReplaceAllStringFunc(f.cfg.Name, func(field string) string {
		switch field {
		case "{path}":
			return input
		case "{dir}":
			return path.Dir(input)
		case "{name}":
			return base
		case "{stem}":
			return strings.TrimSuffix(base, ext)
		case "{ext}":
			return ext
		case "{id}":
			return a.ID.String()
		case "{key}":
			return a.Item.Key
		}
		return a.Item.Attrs[strings.TrimSuffix(strings.TrimPrefix(field, "{attr."), "}")]
	})
	name = path.Clean(name)
	if !filepath.IsLocal(name) || name == "." || strings.ContainsRune(name, 0) {
		return "", badf("the output cannot have the name %q, which comes from %q", name, f.cfg.Name)
	}
	if strings.Split(name, "/")[0] == marker {
		return "", badf("the output cannot have the name %q: %s is for attempts", name, marker)
	}
	return name, nil
}
