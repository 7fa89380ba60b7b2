package agent

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

func TestParseLevel(t *testing.T) {
	for text, want := range map[string]hclog.Level{"": hclog.Info, "debug": hclog.Debug, "WARN": hclog.Warn, "off": hclog.Off} {
		got, err := ParseLevel(text)
		must.NoError(t, err)
		must.Eq(t, want, got)
	}
	_, err := ParseLevel("loud")
	must.EqError(t, err, `"loud" is not one of trace, debug, info, warn, error and off`)
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	l := NewLogger("elector", hclog.Info, true, &out)
	l.Debug("no")
	l.Info("yes", "n", 1)
	var line map[string]any
	must.NoError(t, json.Unmarshal(out.Bytes(), &line))
	must.Eq(t, "yes", line["@message"])
	must.Eq(t, "elector", line["@module"])
}
