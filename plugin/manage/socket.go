package manage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// SocketName is the name of a task's management socket in its secrets
// directory.
const SocketName = "lifecycle.sock"

// Owner is the user that a task runs as, as the node sees it. The zero value
// is an unknown one.
type Owner struct {
	UID, GID int
	known    bool
}

// OwnedBy is a known owner.
func OwnedBy(uid, gid int) Owner { return Owner{UID: uid, GID: gid, known: true} }

// Listen makes the management socket in a task's secrets directory. A known
// owner gets it for itself (0600). For an unknown one, or if this process may
// not give files away, everybody may use it (0666) who reaches the directory,
// as with Nomad's own api.sock.
//
// The directory belongs to the task: it may not be a symbolic link, and of what
// lies at the socket's place only an old socket is removed. The path may be
// longer than the 108 bytes that the kernel takes; the task itself, which sees
// another path, connects as it likes. Closing the listener removes the socket.
func Listen(dir string, owner Owner) (net.Listener, error) {
	ln, err := listenIn(dir, SocketName, owner)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", filepath.Join(dir, SocketName), err)
	}
	return ln, nil
}

func listenIn(dir, name string, owner Owner) (net.Listener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, errors.New("the directory is no directory, or a symbolic link, which is not followed")
	}
	if err != nil {
		return nil, err
	}
	ln, err := listenAt(fd, name, owner)
	if err != nil {
		_ = unix.Close(fd) // only a file descriptor
		return nil, err
	}
	return ln, nil
}

// listenAt makes the socket in the directory that fd is open on. The listener
// owns fd from then on.
func listenAt(fd int, name string, owner Owner) (*listener, error) {
	if err := removeSocket(fd, name); err != nil {
		return nil, err
	}
	// The mode of an unbound socket becomes that of its file, so that there is no
	// moment in which others may connect.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if ctrlErr := raw.Control(func(s uintptr) { err = unix.Fchmod(int(s), 0o600) }); ctrlErr != nil {
			return ctrlErr
		}
		return err
	}}
	ln, err := config.Listen(context.Background(), "unix", fmt.Sprintf("/proc/self/fd/%d/%s", fd, name))
	if err != nil {
		return nil, err
	}
	l := &listener{UnixListener: ln.(*net.UnixListener), dir: fd, name: name}
	// By then the number of the descriptor may stand for another directory.
	l.SetUnlinkOnClose(false)
	if err := l.give(owner); err != nil {
		return nil, errors.Join(err, l.UnixListener.Close(), removeSocket(fd, name))
	}
	return l, nil
}

// removeSocket removes the socket at name. Nothing else is removed.
func removeSocket(fd int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is there and is no socket; remove it", name)
	}
	if err := unix.Unlinkat(fd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the old %s: %w", name, err)
	}
	return nil
}

// listener is a unix socket that is removed when it is closed, unless another
// has taken its place.
type listener struct {
	*net.UnixListener
	dir      int // open on the directory
	name     string
	dev, ino uint64

	once   sync.Once
	closed error
}

// give sets owner and mode of the socket's file. The task may have put
// something else in its place, which must not be given away: it is looked at
// through a descriptor that stays with it, and has to be a socket that is
// nowhere else and belongs to this process.
func (l *listener) give(owner Owner) error {
	fd, err := unix.Openat2(l.dir, l.name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return fmt.Errorf("open the socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // only a file descriptor
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
		return errors.New("something else was put in the place of the socket")
	}
	l.dev, l.ino = uint64(st.Dev), st.Ino //nolint:unconvert // the type differs between architectures
	mode := uint32(0o666)
	if owner.known {
		err := unix.Fchownat(fd, "", owner.UID, owner.GID, unix.AT_EMPTY_PATH)
		if err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("give the socket to the task's user: %w", err)
		}
		if err == nil {
			mode = 0o600
		}
	}
	// An O_PATH descriptor has no fchmod of its own.
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
		return fmt.Errorf("set the socket's mode: %w", err)
	}
	return nil
}

// Close stops listening and removes the socket.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.closed = l.UnixListener.Close()
		var st unix.Stat_t
		err := unix.Fstatat(l.dir, l.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && uint64(st.Dev) == l.dev && st.Ino == l.ino { //nolint:unconvert // as above
			err = unix.Unlinkat(l.dir, l.name, 0)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			l.closed = errors.Join(l.closed, fmt.Errorf("remove %s: %w", l.name, err))
		}
		_ = unix.Close(l.dir) // only a file descriptor
	})
	return l.closed
}
