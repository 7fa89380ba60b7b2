package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What the kernel and the CNI plugins keep of a cluster after its processes
// are gone: mounts, network namespaces, addresses and rules, cgroups.

const (
	netnsDir  = "/var/run/netns"
	cniState  = "/var/lib/cni"
	cgroupDir = "/sys/fs/cgroup"
)

// mountsUnder lists the mount points at or below dir, deepest first.
func mountsUnder(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(b, dir), nil
}

// parseMounts finds the mount points at or below dir in a mountinfo file,
// deepest first. Field 5 is the mount point, with octal escapes.
func parseMounts(mountinfo []byte, dir string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 5 {
			continue
		}
		if point := unescape.Replace(f[4]); under(point, dir) {
			points = append(points, point)
		}
	}
	// Later mounts hide earlier ones, so they go first.
	slices.Reverse(points)
	slices.SortStableFunc(points, func(a, b string) int {
		return strings.Count(b, "/") - strings.Count(a, "/")
	})
	return points
}

// unmountUnder takes away the mounts at or below dir. Lazily: what a dying
// process still holds goes with it.
func unmountUnder(dir string) error {
	points, err := mountsUnder(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range points {
		err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not a mount any more
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// netnsOf lists the named network namespaces of the allocations.
func netnsOf(allocs []string) []string {
	var list []string
	for _, id := range allocs {
		path := filepath.Join(netnsDir, id)
		if _, err := os.Lstat(path); err == nil {
			list = append(list, path)
		}
	}
	return list
}

// removeNetns removes the named network namespaces of the allocations. Their
// virtual interfaces go with them.
func removeNetns(allocs []string) error {
	var errs []error
	for _, path := range netnsOf(allocs) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount network namespace %s: %w", path, err))
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove network namespace: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeCNI gives back the addresses of the allocations and removes their
// rules and chains from iptables' nat table.
func removeCNI(ctx context.Context, allocs []string) error {
	if len(allocs) == 0 || os.Geteuid() != 0 {
		return nil
	}
	var errs []error
	// host-local keeps one file per address, which names its holder.
	paths, err := filepath.Glob(filepath.Join(cniState, "networks", "*", "*"))
	if err != nil {
		errs = append(errs, fmt.Errorf("list CNI addresses: %w", err))
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil || len(b) > 4096 || !containsAny(string(b), allocs) {
			continue // a directory, or gone, or of somebody else
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("give back a CNI address: %w", err))
		}
	}
	paths, err = filepath.Glob(filepath.Join(cniState, "results", "*"))
	if err != nil {
		errs = append(errs, fmt.Errorf("list CNI results: %w", err))
	}
	for _, path := range paths {
		if !containsAny(path, allocs) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove a CNI result: %w", err))
		}
	}
	return errors.Join(append(errs, removeRules(ctx, allocs))...)
}

// removeRules removes the nat rules whose comment names an allocation, then
// the chains that they jumped to.
func removeRules(ctx context.Context, allocs []string) error {
	iptables, err := exec.LookPath("iptables")
	if errors.Is(err, exec.ErrNotFound) {
		return nil // without it the CNI plugins cannot have made rules
	}
	if err != nil {
		return fmt.Errorf("look for iptables: %w", err)
	}
	run := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, iptables, append([]string{"-w", "5", "-t", "nat"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("iptables %v: %w: %s", args, err, bytes.TrimSpace(out))
		}
		return out, nil
	}
	out, err := run("-S")
	if err != nil {
		return err
	}
	var errs []error
	rules, chains := rulesOf(string(out), allocs)
	for _, rule := range rules {
		_, err := run(append([]string{"-D"}, rule...)...)
		errs = append(errs, err)
	}
	for _, chain := range chains {
		if _, err := run("-F", chain); err != nil {
			errs = append(errs, err)
			continue
		}
		_, err := run("-X", chain)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// rulesOf picks from "iptables -S" the rules that name one of the allocations
// (as arguments without the leading -A) and the CNI chains that they jump to.
func rulesOf(listing string, allocs []string) (rules [][]string, chains []string) {
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, "-A ")
		if !ok || !containsAny(line, allocs) {
			continue
		}
		args := splitRule(rest)
		rules = append(rules, args)
		for i, a := range args[:len(args)-1] {
			if target := args[i+1]; a == "-j" && strings.HasPrefix(target, "CNI-") && !slices.Contains(chains, target) {
				chains = append(chains, target)
			}
		}
	}
	// Rules inside the chains go with the chains, and come after the jump.
	rules = slices.DeleteFunc(rules, func(r []string) bool { return slices.Contains(chains, r[0]) })
	return rules, chains
}

// splitRule splits a rule as iptables prints it: words, or strings in double
// quotes with backslash escapes.
func splitRule(s string) []string {
	var args []string
	var word strings.Builder
	quoted, escaped, started := false, false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
			started = true
		case r == ' ' && !quoted:
			if started {
				args = append(args, word.String())
				word.Reset()
				started = false
			}
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if started {
		args = append(args, word.String())
	}
	return args
}

// cgroupsOf lists the cgroups whose name holds an allocation's ID, deepest
// first. Nomad names them so in cgroups v1 and v2.
func cgroupsOf(allocs []string) ([]string, error) {
	if len(allocs) == 0 {
		return nil, nil
	}
	var list []string
	err := filepath.WalkDir(cgroupDir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // cgroups come and go
		}
		if err != nil {
			return err
		}
		if d.IsDir() && containsAny(d.Name(), allocs) {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	slices.SortFunc(list, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return list, nil
}

// removeCgroups removes the empty cgroups of the allocations with all below.
func removeCgroups(allocs []string) error {
	list, err := cgroupsOf(allocs)
	if err != nil {
		return err
	}
	var errs []error
	for _, top := range list {
		var dirs []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // gone meanwhile: good
		})
		errs = append(errs, err)
		for _, dir := range slices.Backward(dirs) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}

// containsAny says whether s holds one of the words.
func containsAny(s string, words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
}
