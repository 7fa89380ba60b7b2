package driver

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/shoenig/test/must"
)

func TestSelect(t *testing.T) {
	cases := map[string]struct {
		argv []string
		name string
		want string // of the error
	}{
		"file name, docker":    {[]string{"/opt/plugins/lifecycle-docker"}, "lifecycle-docker", ""},
		"file name, exec":      {[]string{"lifecycle-exec"}, "lifecycle-exec", ""},
		"file name, raw_exec":  {[]string{"./lifecycle-raw_exec"}, "lifecycle-raw_exec", ""},
		"file name of a stock": {[]string{"/opt/plugins/docker", "-as=docker"}, "docker", ""},
		"inner":                {[]string{"nomad-driver-lifecycle", "-inner=docker"}, "lifecycle-docker", ""},
		"inner over file name": {[]string{"lifecycle-docker", "-inner", "exec"}, "lifecycle-exec", ""},
		"as inner":             {[]string{"x", "-inner=docker", "-as=docker"}, "docker", ""},
		"as itself":            {[]string{"x", "-inner=docker", "-as=lifecycle-docker"}, "lifecycle-docker", ""},
		"as another":           {[]string{"x", "-inner=docker", "-as=exec"}, "", "-as=exec: not one of lifecycle-docker, docker"},
		"as anything":          {[]string{"x", "-inner=raw_exec", "-as=mine"}, "", "-as=mine: not one of lifecycle-raw_exec, raw_exec"},
		"which one":            {[]string{"nomad-driver-lifecycle"}, "", "which driver to decorate?"},
		"inner unknown":        {[]string{"lifecycle-docker", "-inner=podman"}, "", "-inner=podman: not one of docker, exec, raw_exec"},
		"inner empty":          {[]string{"lifecycle-docker", "-inner="}, "lifecycle-docker", ""},
		"flag unknown":         {[]string{"lifecycle-docker", "-outer=x"}, "", "-outer"},
		"inner and a binary":   {[]string{"x", "-inner=docker", "-inner-plugin=/x"}, "", "-inner and -inner-plugin exclude each other"},
		"argument":             {[]string{"lifecycle-docker", "docker"}, "", `unknown argument "docker"`},
		"nothing":              {nil, "", "no command line"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			selected, err := Select(tc.argv)
			if tc.want != "" {
				must.ErrorContains(t, err, tc.want)
				must.Nil(t, selected)
				return
			}
			must.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d, err := selected.Open(ctx, testLogger())
			must.NoError(t, err)
			must.Eq(t, tc.name, d.name)
			must.Eq(t, strings.TrimPrefix(tc.name, namePrefix), d.innerName())
		})
	}
}

// A binary is asked its name only when the driver is opened.
func TestSelect_Binary(t *testing.T) {
	selected, err := Select([]string{"lifecycle-docker", "-inner-plugin=" + filepath.Join(t.TempDir(), "none")})
	must.NoError(t, err)
	_, err = selected.Open(t.Context(), testLogger())
	must.ErrorContains(t, err, "none")

	for as, want := range map[string]string{"": "lifecycle-fake", "fake": "fake", "lifecycle-fake": "lifecycle-fake", "docker": ""} {
		s := &Selection{as: as, inner: func(context.Context, hclog.Logger) (drivers.DriverPlugin, error) { return newFake(), nil }}
		d, err := s.Open(t.Context(), testLogger())
		if want == "" {
			must.ErrorContains(t, err, "-as=docker: not one of lifecycle-fake, fake")
			continue
		}
		must.NoError(t, err)
		must.Eq(t, want, d.name)
	}
}

func TestPluginInfo(t *testing.T) {
	info, err := harness(t, decorate(t, "lifecycle-fake", newFake().factory)).PluginInfo()
	must.NoError(t, err)
	must.Eq(t, &base.PluginInfoResponse{
		Type: base.PluginTypeDriver, PluginApiVersions: []string{drivers.ApiVersion010},
		PluginVersion: Version, Name: "lifecycle-fake",
	}, info)
}

// What gRPC carries of the capabilities is the same with and without us.
func TestCapabilities(t *testing.T) {
	for name, inner := range inners() {
		t.Run(name, func(t *testing.T) {
			d := decorate(t, "lifecycle-"+name, inner)
			got, err := harness(t, d).Capabilities()
			must.NoError(t, err)
			stock, err := d.inner.Capabilities()
			must.NoError(t, err)
			must.Eq(t, stock.SendSignals, got.SendSignals)
			must.Eq(t, stock.Exec, got.Exec)
			must.Eq(t, stock.FSIsolation, got.FSIsolation)
			must.Eq(t, stock.MustInitiateNetwork, got.MustInitiateNetwork)
			must.Eq(t, stock.NetIsolationModes, got.NetIsolationModes)
			must.Eq(t, stock.DynamicWorkloadUsers, got.DynamicWorkloadUsers)
		})
	}
}

// The docker driver edits the value that it returns, so ours is another one.
func TestCapabilities_AreACopy(t *testing.T) {
	f := newFake()
	d := decorate(t, "lifecycle-fake", f.factory)
	got, err := d.Capabilities()
	must.NoError(t, err)
	must.Eq(t, f.caps, *got)
	f.caps.FSIsolation = fsisolation.None
	must.Eq(t, fsisolation.Image, got.FSIsolation)
}

func TestCapabilities_Error(t *testing.T) {
	f := newFake()
	f.CapabilitiesF = func() (*drivers.Capabilities, error) { return nil, errors.New("not now") }
	_, err := harness(t, decorate(t, "lifecycle-fake", f.factory)).Capabilities()
	must.ErrorContains(t, err, "not now")
}

func TestFingerprint(t *testing.T) {
	cases := map[string]map[string]string{ // attributes by the driver's name
		"lifecycle-fake": {
			"driver.lifecycle-fake": "true", "driver.lifecycle-fake.version": "3",
			"driver.lifecycle-fake.lifecycle.version": Version,
			"driver.faker": "another's", "unique.hostname": "a",
		},
		"fake": {
			"driver.fake": "true", "driver.fake.version": "3", "driver.fake.lifecycle.version": Version,
			"driver.faker": "another's", "unique.hostname": "a",
		},
	}
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			h := harness(t, decorate(t, name, newFake().factory))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ch, err := h.Fingerprint(ctx)
			must.NoError(t, err)
			fp := receive(t, ch)
			must.NoError(t, fp.Err)
			must.Eq(t, drivers.HealthStateHealthy, fp.Health)
			must.Eq(t, "fine", fp.HealthDescription)
			got := make(map[string]string)
			for k, v := range fp.Attributes {
				if b, ok := v.GetBool(); ok {
					got[k] = strconv.FormatBool(b)
				} else {
					got[k], _ = v.GetString()
				}
			}
			must.Eq(t, want, got)
		})
	}
}

// The inner driver's own map stays as it was, and a driver that is not there
// gets no attribute.
func TestRename(t *testing.T) {
	in := &drivers.Fingerprint{Health: drivers.HealthStateUndetected, HealthDescription: "disabled"}
	out := rename(in, "fake", "lifecycle-fake")
	must.MapEmpty(t, out.Attributes)
	must.Nil(t, in.Attributes)
	must.Eq(t, "disabled", out.HealthDescription)
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
