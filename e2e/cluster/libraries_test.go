package cluster

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestParseLdd(t *testing.T) {
	cases := map[string]struct {
		out   string
		files map[string]string
		err   string
	}{
		"usual": {
			out: "\tlinux-vdso.so.1 (0x00007ffd3b5f2000)\n" +
				"\tlibcurl.so.4 => /lib/x86_64-linux-gnu/libcurl.so.4 (0x00007f1d0a9c3000)\n" +
				"\t/lib64/ld-linux-x86-64.so.2 (0x00007f1d0ab3e000)\n",
			files: map[string]string{
				"/lib/x86_64-linux-gnu/libcurl.so.4": "/lib/x86_64-linux-gnu/libcurl.so.4",
				"/lib64/ld-linux-x86-64.so.2":        "/lib64/ld-linux-x86-64.so.2",
			},
		},
		"not clean": {
			out:   "\tlibx.so => /opt/a/../lib/libx.so (0x00007f1d0a9c3000)\n",
			files: map[string]string{"/opt/lib/libx.so": "/opt/a/../lib/libx.so"},
		},
		"missing": {
			out: "\tlibx.so.1 => not found\n",
			err: "libx.so.1 => not found",
		},
		"none": {out: "\n", files: map[string]string{}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			files, err := parseLdd(tc.out)
			if tc.err != "" {
				must.ErrorContains(t, err, tc.err)
				return
			}
			must.NoError(t, err)
			must.Eq(t, tc.files, files)
		})
	}
}

func TestWithLibraries(t *testing.T) {
	files, err := WithLibraries(t.Context(), "/proc/self/exe") // a Go program, perhaps with cgo
	must.NoError(t, err)
	must.MapContainsKey(t, files, "/proc/self/exe")
	_, err = WithLibraries(t.Context(), "/etc/passwd")
	must.ErrorContains(t, err, "libraries of /etc/passwd")
}
