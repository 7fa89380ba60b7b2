package cluster

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestParseMounts(t *testing.T) {
	const info = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:5 / /tmp/np-1/c0/a/x/web/secrets rw - tmpfs tmpfs rw
31 22 0:6 / /tmp/np-1/c0/a/x rw - tmpfs tmpfs rw
32 22 0:7 / /tmp/np-12/c0 rw - tmpfs tmpfs rw
33 22 0:8 / /tmp/np-1/with\040blank rw - tmpfs tmpfs rw
34 22 0:9 / /tmp/np-1/c0/a/x rw - tmpfs tmpfs rw
short line
`
	must.Eq(t, []string{
		"/tmp/np-1/c0/a/x/web/secrets", "/tmp/np-1/c0/a/x", "/tmp/np-1/c0/a/x", "/tmp/np-1/with blank",
	}, parseMounts([]byte(info), "/tmp/np-1"))
}

func TestRulesOf(t *testing.T) {
	const (
		ours   = "5d845b88-5bd5-a761-12b0-12600b4abcc3"
		theirs = "00000000-5bd5-a761-12b0-12600b4abcc3"
	)
	const listing = `-P PREROUTING ACCEPT
-N CNI-1111
-N CNI-DN-2222
-A POSTROUTING -s 172.26.64.2/32 -m comment --comment "name: \"nomad\" id: \"` + ours + `\"" -j CNI-1111
-A POSTROUTING -s 172.26.64.3/32 -m comment --comment "name: \"nomad\" id: \"` + theirs + `\"" -j CNI-3333
-A CNI-1111 -d 172.26.64.0/20 -m comment --comment "name: \"nomad\" id: \"` + ours + `\"" -j ACCEPT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"nomad\" id: \"` + ours + `\"" -m multiport --dports 80 -j CNI-DN-2222
`
	rules, chains := rulesOf(listing, []string{ours})
	must.Eq(t, []string{"CNI-1111", "CNI-DN-2222"}, chains)
	must.Len(t, 2, rules)
	must.Eq(t, []string{
		"POSTROUTING", "-s", "172.26.64.2/32", "-m", "comment", "--comment", `name: "nomad" id: "` + ours + `"`, "-j", "CNI-1111",
	}, rules[0])
	must.Eq(t, "CNI-HOSTPORT-DNAT", rules[1][0])
}

func TestPackFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app")
	must.NoError(t, os.WriteFile(file, []byte("hello"), 0o755))
	first, err := packFiles(map[string]string{"/usr/bin/app": file, "/app": file})
	must.NoError(t, err)
	second, err := packFiles(map[string]string{"/app": file, "/usr/bin/app": file})
	must.NoError(t, err)
	must.True(t, bytes.Equal(first, second), must.Sprint("the same files give the same bytes"))

	var names []string
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must.NoError(t, err)
		names = append(names, h.Name)
	}
	must.Eq(t, []string{"tmp/", "usr/", "usr/bin/", "app", "usr/bin/app"}, names)

	for _, bad := range []string{"app", "/", "/a/../b", "/a/"} {
		_, err := packFiles(map[string]string{bad: file})
		must.Error(t, err, must.Sprint(bad))
	}
	_, err = packFiles(map[string]string{"/dir": t.TempDir()})
	must.ErrorContains(t, err, "not a regular file")
}

func TestImageOptions_Changes(t *testing.T) {
	lines, err := ImageOptions{Entrypoint: []string{"/a b"}, Cmd: []string{}, Env: []string{"K=v w"}}.changes()
	must.NoError(t, err)
	must.Eq(t, []string{`ENTRYPOINT ["/a b"]`, `CMD []`, `ENV K="v w"`}, lines)
	_, err = ImageOptions{Env: []string{"NOVALUE"}}.changes()
	must.Error(t, err)
}
