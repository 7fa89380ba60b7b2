package agent

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// sample has a setting of each kind.
type sample struct {
	Name    Value[string]            `hcl:"name,optional"`
	Port    Value[int]               `hcl:"port,optional"`
	On      Value[bool]              `hcl:"on,optional"`
	Pause   Value[time.Duration]     `hcl:"pause,optional"`
	Words   Value[[]string]          `hcl:"words,optional"`
	Meta    Value[map[string]string] `hcl:"meta,optional"`
	Block   *block                   `hcl:"block,block"`
	Several []*block                 `hcl:"several,block"`
}

type block struct {
	Pause Value[time.Duration] `hcl:"pause,optional"`
}

func (s *sample) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("sample", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	s.Name.Flag(fs, "name", "")
	s.Port.Flag(fs, "port", "")
	s.On.Flag(fs, "on", "")
	s.Pause.Flag(fs, "pause", "")
	s.Words.Flag(fs, "word", "")
	s.Meta.Flag(fs, "meta", "")
	return fs
}

const full = `
name  = "a"
port  = 80
on    = true
pause = "1.5s"
words = ["x", "y"]
meta  = { zone = "a", rack = 7 }
block {
  pause = "2s"
}
several {}
several {
  pause = "3s"
}
`

func TestLoad(t *testing.T) {
	file := write(t, t.TempDir(), "a.hcl", full)
	var s sample
	must.NoError(t, Load([]string{file}, &s))
	must.Eq(t, Value[string]{"a", file + ":2:9"}, s.Name)
	must.Eq(t, 80, s.Port.V)
	must.True(t, s.On.V)
	must.Eq(t, Value[time.Duration]{1500 * time.Millisecond, file + ":5:9"}, s.Pause)
	must.Eq(t, []string{"x", "y"}, s.Words.V)
	must.Eq(t, map[string]string{"zone": "a", "rack": "7"}, s.Meta.V)
	must.Eq(t, 2*time.Second, s.Block.Pause.V)
	must.SliceLen(t, 2, s.Several)
	must.False(t, s.Several[0].Pause.IsSet())
	must.Eq(t, file+":13:11", s.Several[1].Pause.From)
}

func TestLoadDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "1.hcl", `name = "a"`+"\nseveral { }\n")
	write(t, dir, "2.json", `{"port": 5, "several": [{"pause": "1s"}]}`)
	write(t, dir, "README", "not read")
	extra := write(t, t.TempDir(), "extra", `on = true`)
	var s sample
	must.NoError(t, Load([]string{dir, extra}, &s))
	must.Eq(t, "a", s.Name.V)
	must.Eq(t, 5, s.Port.V)
	must.True(t, s.On.V)
	must.SliceLen(t, 2, s.Several)
}

func TestLoadNothing(t *testing.T) {
	var s sample
	must.NoError(t, Load(nil, &s))
	must.Eq(t, sample{}, s)
}

func TestLoadProblems(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    []string // one for each problem, in order; FILE is the path
	}{
		"unknown key":       {"nome = 1", []string{`FILE:1:1: Unsupported argument; An argument named "nome" is not expected here. Did you mean "name"?`}},
		"unknown block":     {"blok { }", []string{`FILE:1:1: Unsupported block type; Blocks of type "blok" are not expected here. Did you mean "block"?`}},
		"unknown in block":  {"block {\n  x = 1\n}", []string{"FILE:2:3: Unsupported argument"}},
		"block twice":       {"block {}\nblock {}", []string{"FILE:2:1: Duplicate block block"}},
		"not HCL":           {"name = ", []string{"FILE:1:8: Missing expression"}},
		"duration's unit":   {`pause = "5x"`, []string{`FILE:1:9: "5x" is not a duration; write for example "1.5s" or "200ms"`}},
		"duration as digit": {`pause = 5`, []string{`FILE:1:9: "5" is not a duration`}},
		"wrong type":        {`port = "x"`, []string{"FILE:1:8: a number is required"}},
		"fraction":          {`port = 1.5`, []string{"FILE:1:8: value must be a whole number"}},
		"list":              {`words = "x"`, []string{"FILE:1:9: list of string required"}},
		"null in list":      {`words = [null]`, []string{"FILE:1:9: null is not a value here"}},
		"variable":          {`name = foo.bar`, []string{"FILE:1:8: Variables not allowed"}},
		"several":           {"on = 5\npause = \"\"\nx = 1", []string{"FILE:1:6: bool required", "FILE:2:9: \"\" is not a duration", "FILE:3:1: Unsupported argument"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, t.TempDir(), "a.hcl", c.content)
			err := Load([]string{file}, &sample{})
			must.Eq(t, ExitConfig, ExitCode(err))
			lines := strings.Split(err.Error(), "\n")
			must.SliceLen(t, len(c.want), lines, must.Sprintf("%s", err))
			for i, want := range c.want {
				must.StrHasPrefix(t, strings.ReplaceAll(want, "FILE", file), lines[i])
			}
		})
	}
}

func TestLoadFileProblems(t *testing.T) {
	dir := t.TempDir()
	one := write(t, dir, "1.hcl", `name = "a"`)
	two := write(t, dir, "2.hcl", `name = "b"`)
	empty := t.TempDir()
	missing := filepath.Join(dir, "missing")
	for name, c := range map[string]struct {
		paths []string
		want  string
	}{
		"missing":         {[]string{missing}, "-config: stat " + missing},
		"empty directory": {[]string{empty}, "-config: directory " + empty + " has no .hcl or .json files"},
		"given twice":     {[]string{one, two}, two + ":1:1: Duplicate argument"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Load(c.paths, &sample{})
			must.Eq(t, ExitConfig, ExitCode(err))
			must.StrHasPrefix(t, c.want, err.Error())
		})
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, t.TempDir(), "a.hcl", full)
	t.Setenv("SAMPLE_NAME", "environment")
	t.Setenv("SAMPLE_PORT", "81")
	t.Setenv("SAMPLE_ON", "")
	s := sample{}
	must.NoError(t, s.flags().Parse([]string{"-name=flag", "-word=z", "-word", "w", "-meta", "k=v=w"}))
	var p Problems
	s.Name.Env(&p, "SAMPLE_NAME")
	s.Port.Env(&p, "SAMPLE_PORT")
	s.On.Env(&p, "SAMPLE_ON")
	must.NoError(t, p.Err())
	must.NoError(t, Load([]string{file}, &s))
	must.Eq(t, Value[string]{"flag", "-name"}, s.Name)
	must.Eq(t, Value[int]{81, "SAMPLE_PORT"}, s.Port)
	must.Eq(t, Value[bool]{true, file + ":4:9"}, s.On)
	must.Eq(t, []string{"z", "w"}, s.Words.V)
	must.Eq(t, map[string]string{"k": "v=w"}, s.Meta.V)

	var unset Value[int]
	unset.Default(7)
	s.Port.Default(7)
	must.Eq(t, Value[int]{V: 7}, unset)
	must.Eq(t, 81, s.Port.V)
}

func TestFlagProblems(t *testing.T) {
	for _, args := range []string{"-port=x", "-on=maybe", "-pause=5", "-meta=novalue", "-meta==x", "-unknown"} {
		t.Run(args, func(t *testing.T) {
			must.Error(t, new(sample).flags().Parse([]string{args}))
		})
	}
	s := sample{}
	must.NoError(t, s.flags().Parse([]string{"-on"}))
	must.True(t, s.On.V)

	t.Setenv("SAMPLE_PORT", "x")
	var p Problems
	s.Port.Env(&p, "SAMPLE_PORT")
	must.EqError(t, p.Err(), `SAMPLE_PORT: "x" is not a whole number`)
}

func TestBetween(t *testing.T) {
	var p Problems
	Between(&p, "port", Value[int]{V: 1}, 1, 2)
	Between(&p, "port", Value[int]{V: 2}, 1, 2)
	must.NoError(t, p.Err())
	Between(&p, "pause", Value[time.Duration]{V: 500 * time.Millisecond, From: "a.hcl:3:9"}, time.Second, time.Minute)
	Between(&p, "port", Value[int]{V: 3, From: "-port"}, 1, 2)
	Between(&p, "port", Value[int]{V: 0}, 1, 2)
	must.EqError(t, p.Err(), "a.hcl:3:9: pause: 500ms is not between 1s and 1m0s\n-port: 3 is not between 1 and 2\nport: 0 is not between 1 and 2")
}

func TestDefaultID(t *testing.T) {
	t.Setenv("NOMAD_ALLOC_ID", "8e533ce5-d9ce-f9e2-d88f-8d7caca02dab")
	t.Setenv("NOMAD_GROUP_NAME", "my group/ä")
	t.Setenv("NOMAD_ALLOC_INDEX", "2")
	id, err := DefaultID()
	must.NoError(t, err)
	must.Eq(t, "my-group---2-8e533ce5", id)

	t.Setenv("NOMAD_ALLOC_ID", "")
	id, err = DefaultID()
	must.NoError(t, err)
	host, err := os.Hostname()
	must.NoError(t, err)
	must.StrHasPrefix(t, host+"-", id)
}

func FuzzLoad(f *testing.F) {
	f.Add(full)
	f.Add(`words = [null, {}]`)
	f.Fuzz(func(t *testing.T, content string) {
		file := write(t, t.TempDir(), "a.hcl", content)
		if err := Load([]string{file}, &sample{}); err != nil {
			must.Eq(t, ExitConfig, ExitCode(err))
		}
	})
}
