package agent

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Type is what a setting can be.
type Type interface {
	string | int | bool | time.Duration | []string | map[string]string
}

// Value is a setting that knows where it was given. The zero Value is not set. As a
// field with an hcl tag it has to be optional:
//
//	TTL agent.Value[time.Duration] `hcl:"ttl,optional"`
type Value[T Type] struct {
	V T
	// From is the place, for example "agent.hcl:3:9", "-ttl" or "ELECTOR_TTL". It
	// is empty if the setting was given nowhere.
	From string
}

// IsSet says whether the setting was given, be it as "" or 0.
func (v *Value[T]) IsSet() bool { return v.From != "" }

// Default sets the value if it was given nowhere. From stays empty.
func (v *Value[T]) Default(d T) {
	if !v.IsSet() {
		v.V = d
	}
}

// Env takes the value from the environment if it was not given before; an empty
// variable counts as none. Call it after the flags were parsed and before Load.
func (v *Value[T]) Env(p *Problems, name string) {
	text := os.Getenv(name)
	if v.IsSet() || text == "" {
		return
	}
	if err := parse(text, &v.V); err != nil {
		p.Addf(name, "", "%v", err)
		return
	}
	v.From = name
}

// Flag declares a flag for the setting. A list is given as one flag for each element,
// a map as one flag for each key=value.
func (v *Value[T]) Flag(fs *flag.FlagSet, name, usage string) {
	fs.Var(&valueFlag[T]{v: v, name: name}, name, usage)
}

type valueFlag[T Type] struct {
	v    *Value[T]
	name string
}

// String is the flag's default in help, which the usage text names instead.
func (*valueFlag[T]) String() string { return "" }

func (f *valueFlag[T]) Set(text string) error {
	f.v.From = "-" + f.name
	return parse(text, &f.v.V)
}

// IsBoolFlag lets "-x" stand for "-x=true".
func (f *valueFlag[T]) IsBoolFlag() bool {
	_, is := any(f.v.V).(bool)
	return is
}

// parse reads the text of a flag or variable.
func parse(text string, into any) (err error) {
	switch into := into.(type) {
	case *string:
		*into = text
	case *int:
		if *into, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
	case *bool:
		if *into, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
	case *time.Duration:
		*into, err = ParseDuration(text)
		return err
	case *[]string:
		*into = append(*into, text)
	case *map[string]string:
		key, value, found := strings.Cut(text, "=")
		if !found || key == "" {
			return fmt.Errorf("%q is not key=value", text)
		}
		if *into == nil {
			*into = map[string]string{}
		}
		(*into)[key] = value
	default:
		return fmt.Errorf("a setting cannot be a %T", into)
	}
	return nil
}

// ParseDuration reads a duration with its unit; the error shows how one is written.
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write for example \"1.5s\" or \"200ms\"", text)
	}
	return d, nil
}

// Between adds a problem if the value is not in the range, both ends of which are in it.
func Between[T int | time.Duration](p *Problems, field string, v Value[T], least, most T) {
	if v.V < least || v.V > most {
		p.Addf(v.From, field, "%v is not between %v and %v", v.V, least, most)
	}
}
