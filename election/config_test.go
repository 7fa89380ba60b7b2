package election

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestConfigRefused(t *testing.T) {
	long := strings.Repeat("x", 129)
	cases := []struct {
		name  string
		cfg   Config
		field string
	}{
		{"id with space", Config{ID: "a b"}, "id"},
		{"id with slash", Config{ID: "a/b"}, "id"},
		{"id begins with dash", Config{ID: "-a"}, "id"},
		{"id too long", Config{ID: long}, "id"},
		{"id with line feed", Config{ID: "a\n"}, "id"},
		{"id not ASCII", Config{ID: "zürich"}, "id"},
		{"mode", Config{Mode: "strictest"}, "mode"},
		{"mode in capitals", Config{Mode: "Strict"}, "mode"},
		{"ttl too short", Config{TTL: MinTTL - 1}, "ttl"},
		{"ttl too long", Config{TTL: MaxTTL + 1}, "ttl"},
		{"ttl negative", Config{TTL: -time.Second}, "ttl"},
		{"session_ttl too short", Config{SessionTTL: MinSessionTTL - 1}, "session_ttl"},
		{"session_ttl too long", Config{SessionTTL: MaxSessionTTL + 1}, "session_ttl"},
		{"prefix begins with slash", Config{Prefix: "/election"}, "prefix"},
		{"prefix ends with slash", Config{Prefix: "election/"}, "prefix"},
		{"prefix with empty part", Config{Prefix: "a//b"}, "prefix"},
		{"prefix with space", Config{Prefix: "a b"}, "prefix"},
		{"prefix is a slash", Config{Prefix: "/"}, "prefix"},
		{"prefix with question mark", Config{Prefix: "a?recurse"}, "prefix"},
		{"meta too big", Config{Meta: map[string]string{"k": strings.Repeat("v", maxInfoBytes)}}, "meta"},
		{"meta keys too big", Config{Meta: map[string]string{strings.Repeat("k", maxInfoBytes+1): ""}}, "meta"},
		{"address and meta too big", Config{Address: strings.Repeat("a", 4000), Meta: map[string]string{"k": strings.Repeat("v", 96)}}, "meta"},
		{"service with slash", Config{Service: "a/b"}, "service"},
		{"service with space", Config{Service: " a"}, "service"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.cfg.Validate()
			var field *FieldError
			must.True(t, errors.As(err, &field), must.Sprint(err))
			must.Eq(t, c.field, field.Field)
			must.NotEq(t, "", field.Problem)
			must.StrContains(t, err.Error(), c.field)
			e, err := New(c.cfg) // starts nothing
			must.Nil(t, e)
			must.Error(t, err)
		})
	}
}

func TestConfigTaken(t *testing.T) {
	cases := map[string]Config{
		"zero":          {},
		"longest id":    {ID: strings.Repeat("x", 128)},
		"shortest id":   {ID: "0"},
		"id":            {ID: "A9._-"},
		"least ttls":    {TTL: MinTTL, SessionTTL: MinSessionTTL},
		"greatest ttls": {TTL: MaxTTL, SessionTTL: MaxSessionTTL},
		"prefix":        {Prefix: "a.b/c-d/_e"},
		"meta":          {Address: "x", Meta: map[string]string{"k": strings.Repeat("v", maxInfoBytes-2)}},
		"strict":        {Mode: Strict},
		"fenced":        {Mode: Fenced},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { must.NoError(t, c.Validate()) })
	}
	c, err := Config{}.withDefaults()
	must.NoError(t, err)
	host, err := os.Hostname()
	must.NoError(t, err)
	must.StrHasPrefix(t, host+"-", c.ID)
	must.Eq(t, "election", c.Prefix)
	must.Eq(t, "elector", c.Service)
	must.Eq(t, Balanced, c.Mode)
	must.Eq(t, 1500*time.Millisecond, c.TTL)
	must.Eq(t, 10*time.Second, c.SessionTTL)
	must.NotNil(t, c.Consul)
	must.NotNil(t, c.Logger)
}

func TestOptions(t *testing.T) {
	cfg, err := Config{}.withDefaults()
	must.NoError(t, err)
	cases := []struct {
		name  string
		opts  Options
		field string // empty: fine
	}{
		{"zero", Options{}, ""},
		{"mode", Options{Mode: "none"}, "mode"},
		{"priority too high", Options{Priority: 101}, "priority"},
		{"priority too low", Options{Priority: -101}, "priority"},
		{"greatest priority", Options{Priority: 100}, ""},
		{"least priority", Options{Priority: -100}, ""},
		{"lease too short", Options{Lease: MinLease - 1}, "lease"},
		{"lease too long", Options{Lease: MaxLease + 1}, "lease"},
		{"lease negative", Options{Lease: -time.Second}, "lease"},
		{"least lease", Options{Lease: MinLease}, ""},
		{"greatest lease", Options{Lease: MaxLease}, ""},
		{"grace negative", Options{Grace: -1}, "grace"},
		{"grace too long", Options{Grace: 675*time.Millisecond + 1}, "grace"},
		{"greatest grace", Options{Grace: 675 * time.Millisecond}, ""},
		{"greatest grace, strict", Options{Mode: Strict, Grace: 4500 * time.Millisecond}, ""},
		{"grace too long, strict", Options{Mode: Strict, Grace: 4500*time.Millisecond + 1}, "grace"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o, err := c.opts.withDefaults(cfg)
			if c.field == "" {
				must.NoError(t, err)
				must.True(t, o.Mode.Valid())
				return
			}
			var field *FieldError
			must.True(t, errors.As(err, &field), must.Sprint(err))
			must.Eq(t, c.field, field.Field)
		})
	}
}

func TestTiming(t *testing.T) {
	cfg, err := Config{TTL: 2 * time.Second, SessionTTL: 20 * time.Second}.withDefaults()
	must.NoError(t, err)
	const ms = time.Millisecond
	for m, want := range map[Mode]timing{
		Strict:   {window: 20 * time.Second, trust: 18 * time.Second, delay: 20 * time.Second, confirm: 6 * time.Second},
		Balanced: {window: 2 * time.Second, trust: 1800 * ms, delay: 2 * time.Second, confirm: 600 * ms},
		Fenced:   {window: 0, trust: 1800 * ms, delay: ms, confirm: 600 * ms},
	} {
		got := cfg.timing(m)
		must.Eq(t, want.window, got.window)
		must.Eq(t, want.trust, got.trust)
		must.Eq(t, want.delay, got.delay)
		must.Eq(t, want.confirm, got.confirm)
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{Strict, Balanced, Fenced} {
		got, err := ParseMode(string(m))
		must.NoError(t, err)
		must.Eq(t, m, got)
	}
	for _, s := range []string{"", "STRICT", "none", "strict "} {
		_, err := ParseMode(s)
		must.StrContains(t, err.Error(), `"strict", "balanced", "fenced"`)
	}
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{"", ".", "..", "-", "a/b", "a b", "a\x00", "a\n", "ä", strings.Repeat("a", 129), "a%2f"} {
		must.Error(t, CheckName(s), must.Sprintf("%q", s))
		must.Error(t, CheckID(s), must.Sprintf("%q", s))
	}
	for _, s := range []string{"a", "0", "a.b_c-d", "A.", strings.Repeat("a", 128)} {
		must.NoError(t, CheckName(s))
		must.NoError(t, CheckID(s))
	}
}
