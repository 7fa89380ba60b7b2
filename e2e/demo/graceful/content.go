package graceful

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/load"
)

// DefaultRoot is where a machine has its documentation: real files of many sizes that
// everybody may read.
const DefaultRoot = "/usr/share/doc"

// Image is the image that the template runs unless told otherwise. It has to have
// /bin/busybox, statically linked.
const Image = "nomad-patterns/busybox:1"

// Names of the streams of [Content.Streams].
const (
	Pages     = "pages"
	Downloads = "downloads"
)

// Size of the file that is served. Small enough to be a page, large enough that its
// body can be cut.
const (
	minFile = 8 << 10
	maxFile = 64 << 10
)

// slowParts and slowPart are the pieces and the bytes of a piece of the download that
// takes about two seconds with busybox.
const (
	slowParts = 4
	slowPart  = 5000
	slowTime  = 2 * time.Second
)

// Content is what the instances serve: the files below Root, of which File is
// requested over and over, and a download that takes about two seconds.
type Content struct {
	Root string // directory
	File string // slash-separated path below Root

	bytes int64
	sum   string // SHA-256, hexadecimal
}

// FindContent looks below root for a readable text file of 8 to 64 KiB.
func FindContent(root string) (Content, error) {
	c := Content{Root: root}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path == root:
			return err
		case err != nil: // a directory that may not be read: look elsewhere
			return nil //nolint:nilerr // not an error of the search
		case !d.Type().IsRegular() || d.Name() != "copyright":
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Size() < minFile || info.Size() > maxFile || info.Mode().Perm()&0o004 == 0 {
			return nil //nolint:nilerr // gone or unsuitable: look elsewhere
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if strings.Trim(filepath.ToSlash(rel), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") != "" {
			return nil // would have to be escaped in a URL
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		sum := sha256.Sum256(content)
		c.File, c.bytes, c.sum = filepath.ToSlash(rel), int64(len(content)), hex.EncodeToString(sum[:])
		return fs.SkipAll
	})
	if err != nil {
		return c, fmt.Errorf("look for a file to serve: %w", err)
	}
	if c.File == "" {
		return c, fmt.Errorf("look for a file to serve below %s: %w", root, errors.New("no copyright file of 8 to 64 KiB"))
	}
	return c, nil
}

// Bytes is the size of File.
func (c Content) Bytes() int64 { return c.bytes }

// Streams returns the load that fits: pages per second, and downloads of two seconds,
// one begun every 1/downloads of a second.
func (c Content) Streams(driver string, pages, downloads float64) []load.Stream {
	streams := []load.Stream{{
		Name: Pages, Path: "/doc/" + c.File, Rate: pages,
		BodyBytes: c.bytes, BodySHA256: c.sum,
	}}
	if downloads <= 0 {
		return streams
	}
	slow := load.Stream{Name: Downloads, Rate: downloads, Timeout: 15 * time.Second}
	if driver == "docker" {
		slow.Path, slow.BodyBytes = "/cgi-bin/slow", slowParts*slowPart
	} else {
		slow.Path, slow.BodyBytes, slow.BodySHA256 = "/slow/"+c.File, c.bytes, c.sum
	}
	return append(streams, slow)
}

// vars returns the variables of the template for this content.
func (c Content) vars(driver string) map[string]string {
	vars := map[string]string{"document_root": c.Root}
	if driver == "docker" {
		// busybox httpd cannot limit the rate, but it runs programs. printf is part of
		// the shell: few new processes, so that many downloads cost little.
		script := fmt.Sprintf("#!/bin/busybox sh\n"+
			"printf 'Content-Type: text/plain\\nContent-Length: %d\\n\\n'\n"+
			"for part in %s; do\n"+
			"  printf '%%0%dd' $part\n"+
			"  busybox sleep %.2f\n"+
			"done\n", slowParts*slowPart, strings.Join(slices.Repeat([]string{"1"}, slowParts), " "), slowPart, (slowTime / slowParts).Seconds())
		files, err := json.Marshal(map[string]string{"cgi-bin/slow": script})
		if err == nil { // a map of strings always can be marshalled
			vars["files"] = string(files)
		}
		return vars
	}
	// nginx lets the first second's worth pass at once.
	rate := c.bytes / int64(slowTime/time.Second+1)
	vars["nginx_locations"] = fmt.Sprintf("location /slow/ { alias %s/; limit_rate %d; }", c.Root, rate)
	return vars
}
