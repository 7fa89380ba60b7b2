package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"
)

// Load reads files into a pointer to a struct with hcl tags. Paths are files, or
// directories of which all *.hcl and *.json files are read, in the order of their
// names. Settings of type [Value] that are set already, by a flag or the environment,
// stay as they are. Blocks that occur once are pointers to structs.
//
// The error is a *ConfigError that names file, line and column.
func Load(paths []string, into any) error {
	var problems Problems
	var files []*hcl.File
	parser := hclparse.NewParser()
	for _, path := range paths {
		names, err := configFiles(path)
		if err != nil {
			problems.Addf("-config", "", "%v", err)
			continue
		}
		for _, name := range names {
			parse := parser.ParseHCLFile
			if filepath.Ext(name) == ".json" {
				parse = parser.ParseJSONFile
			}
			file, diags := parse(name)
			problems.addDiags(diags)
			files = append(files, file)
		}
	}
	if err := problems.Err(); err != nil || len(files) == 0 {
		return err
	}
	problems.addDiags(decoder().DecodeBody(hcl.MergeFiles(files), nil, into))
	return problems.Err()
}

// configFiles is a path of -config as a list of files.
func configFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path) // sorted by name
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".hcl" || ext == ".json") {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("directory %s has no .hcl or .json files", path)
	}
	return files, nil
}

// decoder is gohcl's with all kinds of Value added.
func decoder() *gohcl.Decoder {
	d := &gohcl.Decoder{}
	register[string](d)
	register[int](d)
	register[bool](d)
	register[time.Duration](d)
	register[[]string](d)
	register[map[string]string](d)
	return d
}

func register[T Type](d *gohcl.Decoder) {
	d.RegisterExpressionDecoder(reflect.TypeFor[Value[T]](), func(expr hcl.Expression, ctx *hcl.EvalContext, into any) hcl.Diagnostics {
		v, diags := expr.Value(ctx)
		if diags.HasErrors() || v.IsNull() {
			return diags
		}
		var val T
		if err := fromCty(v, &val); err != nil {
			return append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: err.Error(), Subject: expr.Range().Ptr(),
			})
		}
		// The table of decoders is keyed by the type, so this cannot be another.
		if set := into.(*Value[T]); !set.IsSet() {
			set.V, set.From = val, place(expr.Range())
		}
		return diags
	})
}

func fromCty(v cty.Value, into any) error {
	if d, is := into.(*time.Duration); is {
		var text string
		err := fromCty(v, &text)
		if err == nil {
			*d, err = ParseDuration(text)
		}
		return err
	}
	typ, err := gocty.ImpliedType(into)
	if err != nil {
		return err
	}
	if v, err = convert.Convert(v, typ); err != nil {
		return err
	}
	if v.CanIterateElements() {
		for it := v.ElementIterator(); it.Next(); {
			if _, element := it.Element(); element.IsNull() {
				return errors.New("null is not a value here")
			}
		}
	}
	return gocty.FromCtyValue(v, into)
}

// addDiags adds the errors of diagnostics, in the order of their places.
func (p *Problems) addDiags(diags hcl.Diagnostics) {
	diags = slices.DeleteFunc(slices.Clone(diags), func(d *hcl.Diagnostic) bool { return d.Severity != hcl.DiagError })
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return 0
		}
		return cmp.Or(cmp.Compare(a.Subject.Filename, b.Subject.Filename), cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte))
	})
	for _, d := range diags {
		text := strings.TrimRight(d.Summary, ".")
		if d.Detail != "" {
			text += "; " + strings.Join(strings.Fields(d.Detail), " ")
		}
		from := ""
		if d.Subject != nil {
			from = place(*d.Subject)
		}
		p.Addf(from, "", "%s", text)
	}
}

// place is a range's beginning as editors and compilers write it.
func place(r hcl.Range) string {
	return fmt.Sprintf("%s:%d:%d", r.Filename, r.Start.Line, r.Start.Column)
}
