package manage

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestListen_Places(t *testing.T) {
	for name, c := range map[string]struct {
		put  func(t *testing.T, path string) // what lies at the place
		want string                          // in the error; "" for none
	}{
		"nothing": {func(*testing.T, string) {}, ""},
		"an old socket": {func(t *testing.T, path string) {
			ln, err := net.Listen("unix", path)
			must.NoError(t, err)
			ln.(*net.UnixListener).SetUnlinkOnClose(false)
			must.NoError(t, ln.Close())
		}, ""},
		"a file": {func(t *testing.T, path string) {
			must.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
		}, "is no socket"},
		"a directory": {func(t *testing.T, path string) {
			must.NoError(t, os.Mkdir(path, 0o700))
		}, "is no socket"},
		"a pipe": {func(t *testing.T, path string) {
			must.NoError(t, unix.Mkfifo(path, 0o600))
		}, "is no socket"},
		"a symbolic link to a socket": {func(t *testing.T, path string) {
			other := filepath.Join(t.TempDir(), "docker.sock")
			ln, err := net.Listen("unix", other)
			must.NoError(t, err)
			t.Cleanup(func() {
				_, err := os.Lstat(other)
				must.NoError(t, err, must.Sprint("the socket behind the link was removed"))
				must.NoError(t, ln.Close())
			})
			must.NoError(t, os.Symlink(other, path))
		}, "is no socket"},
		"a symbolic link to nothing": {func(t *testing.T, path string) {
			target := filepath.Join(t.TempDir(), "made")
			t.Cleanup(func() {
				_, err := os.Lstat(target)
				must.ErrorIs(t, err, fs.ErrNotExist)
			})
			must.NoError(t, os.Symlink(target, path))
		}, "is no socket"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, SocketName)
			c.put(t, path)
			before, _ := os.Lstat(path)
			ln, err := Listen(dir, Owner{})
			if c.want != "" {
				must.ErrorContains(t, err, c.want)
				after, err := os.Lstat(path)
				must.NoError(t, err)
				must.True(t, os.SameFile(before, after))
				return
			}
			must.NoError(t, err)
			st, err := os.Lstat(path)
			must.NoError(t, err)
			must.Eq(t, fs.ModeSocket|0o666, st.Mode())
			conn, err := net.Dial("unix", path)
			must.NoError(t, err)
			must.NoError(t, conn.Close())
			must.NoError(t, ln.Close())
			_, err = os.Lstat(path)
			must.ErrorIs(t, err, fs.ErrNotExist)
			must.NoError(t, ln.Close()) // again
		})
	}
}

func TestListen_Directory(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "secrets")
	must.NoError(t, os.Symlink(dir, link))
	_, err := Listen(link, Owner{})
	must.ErrorContains(t, err, "symbolic link")
	_, err = Listen(filepath.Join(dir, "missing"), Owner{})
	must.ErrorIs(t, err, fs.ErrNotExist)
	must.StrContains(t, err.Error(), SocketName)
}

// Nomad's paths are longer than the 108 bytes of a socket's address.
func TestListen_LongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 100), strings.Repeat("y", 100), "secrets")
	must.NoError(t, os.MkdirAll(dir, 0o700))
	ln, err := Listen(dir, Owner{})
	must.NoError(t, err)
	conn, err := connect(context.Background(), filepath.Join(dir, SocketName))
	must.NoError(t, err)
	must.NoError(t, conn.Close())
	must.NoError(t, ln.Close())
	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceEmpty(t, entries)
}

func TestListen_Owner(t *testing.T) {
	stat := func(owner Owner) (fs.FileMode, uint32, uint32) {
		dir := t.TempDir()
		ln, err := Listen(dir, owner)
		must.NoError(t, err)
		defer func() { must.NoError(t, ln.Close()) }()
		st, err := os.Lstat(filepath.Join(dir, SocketName))
		must.NoError(t, err)
		sys := st.Sys().(*syscall.Stat_t)
		return st.Mode().Perm(), sys.Uid, sys.Gid
	}
	self, group := uint32(os.Geteuid()), uint32(os.Getegid())
	mode, uid, _ := stat(Owner{})
	must.Eq(t, 0o666, mode)
	must.Eq(t, self, uid)
	mode, uid, gid := stat(OwnedBy(int(self), int(group)))
	must.Eq(t, 0o600, mode)
	must.Eq(t, self, uid)
	must.Eq(t, group, gid)
	// Only root can give a file away; others leave it open, as Nomad does.
	mode, uid, gid = stat(OwnedBy(65534, 65534))
	if self == 0 {
		must.Eq(t, 0o600, mode)
		must.Eq(t, 65534, uid)
		must.Eq(t, 65534, gid)
	} else {
		must.Eq(t, 0o666, mode)
		must.Eq(t, self, uid)
	}
}

// A later start of the task has its own socket in the same place. The end of
// the earlier one leaves it alone.
func TestListen_Successor(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SocketName)
	first, err := Listen(dir, Owner{})
	must.NoError(t, err)
	second, err := Listen(dir, Owner{})
	must.NoError(t, err)
	must.NoError(t, first.Close())
	conn, err := net.Dial("unix", path)
	must.NoError(t, err)
	must.NoError(t, conn.Close())
	must.NoError(t, second.Close())
	_, err = os.Lstat(path)
	must.ErrorIs(t, err, fs.ErrNotExist)
}

// What a task puts in the place of the socket, just after it was made, is
// neither given away nor opened to everybody.
func TestListen_Swapped(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string){
		"a symbolic link": func(t *testing.T, path string) {
			must.NoError(t, os.Symlink("/etc/passwd", path))
		},
		"a file": func(t *testing.T, path string) {
			must.NoError(t, os.WriteFile(path, nil, 0o600))
		},
		"a hard link to another socket": func(t *testing.T, path string) {
			other := path + ".other"
			ln, err := net.Listen("unix", other)
			must.NoError(t, err)
			t.Cleanup(func() { must.NoError(t, ln.Close()) })
			must.NoError(t, os.Link(other, path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ln, err := listenIn(dir, SocketName, Owner{})
			must.NoError(t, err)
			path := filepath.Join(dir, SocketName)
			must.NoError(t, os.Remove(path))
			put(t, path)
			before, err := os.Lstat(path)
			must.NoError(t, err)
			must.Error(t, ln.(*listener).give(OwnedBy(os.Geteuid(), os.Getegid())))
			after, err := os.Lstat(path)
			must.NoError(t, err)
			must.Eq(t, before.Mode(), after.Mode())
			must.NoError(t, ln.Close())
			_, err = os.Lstat(path) // it is not ours to remove
			must.NoError(t, err)
		})
	}
}
