package checkpoint

import (
	"bytes"
	"strings"
	"testing"
)

// What a decoder accepts is within its bounds, and is the same when it is
// written and read again.

func FuzzManifest(f *testing.F) {
	v := ref{7, 3}
	m, _ := packed(f, v, []byte("state"))
	f.Add(text(f, m))
	f.Add([]byte(`{"version":1,"bytes":1e3,"codec":"zstd"}`))
	f.Add([]byte(`{"saved":"9999-12-31T23:59:59.999999999+14:00"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1000
		version, err := decodeManifest(data, v, limit)
		if err != nil {
			return
		}
		if version.ref() != v || version.Bytes < 0 || version.Bytes > limit || version.StoredBytes <= 0 || version.StoredBytes > maxStored(limit) {
			t.Fatalf("accepted %+v", version)
		}
		if len(version.SHA256) != 64 || strings.ToLower(version.SHA256) != version.SHA256 {
			t.Fatalf("accepted sha256 %q", version.SHA256)
		}
		again, err := encode(manifest{format, version.Alloc, version.Saved, version.Reason, version.Bytes, version.StoredBytes, version.SHA256, codec, v.dataBase()})
		if err != nil {
			return // longer when indented, or of a year that cannot be written
		}
		if got, err := decodeManifest(again, v, limit); err != nil || !got.Saved.Equal(version.Saved) || got.Alloc != version.Alloc {
			t.Fatalf("%+v was written and read as %+v: %v", version, got, err)
		}
	})
}

func FuzzOwner(f *testing.F) {
	f.Add(text(f, Owner{"a", "n", start, "id"}))
	f.Add([]byte(`{"alloc":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := decodeOwner(data)
		if err != nil {
			return
		}
		if o.Alloc == "" {
			t.Fatal("accepted an owner without allocation")
		}
		again, err := encode(o)
		if err != nil {
			return
		}
		if got, err := decodeOwner(again); err != nil || got.Alloc != o.Alloc || got.ID != o.ID || !got.Claimed.Equal(o.Claimed) {
			t.Fatalf("%+v was written and read as %+v: %v", o, got, err)
		}
	})
}

func FuzzEnd(f *testing.F) {
	f.Add(text(f, End{"a", start, "drained", true}))
	f.Add([]byte(`{"alloc":"a","final":"yes"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEnd(data)
		if err != nil {
			return
		}
		again, err := encode(e)
		if err != nil {
			return
		}
		if got, err := decodeEnd(again); err != nil || got.Alloc != e.Alloc || got.Final != e.Final || !got.Ended.Equal(e.Ended) {
			t.Fatalf("%+v was written and read as %+v: %v", e, got, err)
		}
	})
}

func FuzzData(f *testing.F) {
	for _, state := range []string{"", "state", strings.Repeat("state ", 1000)} {
		_, stored := packed(f, ref{1, 1}, []byte(state))
		f.Add(stored, len(state))
	}
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, 10) // says it has 2^63 bytes
	f.Fuzz(func(t *testing.T, stored []byte, size int) {
		if size < 0 || size > 1<<20 {
			return
		}
		state, err := decompress(stored, int64(size))
		if err != nil {
			return
		}
		if len(state) != size {
			t.Fatalf("%d bytes instead of %d", len(state), size)
		}
		again, err := compress(state)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decompress(again, int64(size)); err != nil || !bytes.Equal(got, state) {
			t.Fatalf("not the same again: %v", err)
		}
	})
}

// FuzzNames: whatever is in a store, nothing but names that this package writes
// is ever deleted.
func FuzzNames(f *testing.F) {
	f.Add("00000001/owner\n00000001/00000001.data\n00000001/00000001.json\n00000002/owner\nnotes")
	f.Add("00000001/end\n00000040/00000001.json\n../x\n00000001/final")
	f.Fuzz(func(t *testing.T, list string) {
		names := strings.Split(list, "\n")
		there := map[string]bool{}
		for i, name := range names {
			names[i] = prefix + name
			there[names[i]] = true
		}
		tree := newTree(prefix, names)
		saved := ref{30, 1}
		if turn := tree.turn(saved.epoch); turn != nil {
			turn.data[saved.seq], turn.manifest[saved.seq] = true, true
		}
		always := func(ref) bool { return true }
		never := func(ref) bool { return false }
		for _, name := range tree.garbage(rules{own: saved.epoch, keep: 1, saved: saved, damaged: never, halves: map[ref]bool{{30, 2}: true}, old: always}) {
			if !there[name] {
				t.Fatalf("%q is to be deleted, and was not listed", name)
			}
			if name == saved.dataName(prefix) || name == saved.manifestName(prefix) || name > prefix+"00000030/~" {
				t.Fatalf("%q is to be deleted", name)
			}
		}
	})
}
