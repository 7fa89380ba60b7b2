package checkpoint

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/shoenig/test/must"
)

// packed compresses a state and describes it as version v.
func packed(t testing.TB, v ref, state []byte) (manifest, []byte) {
	t.Helper()
	stored, err := compress(state)
	must.NoError(t, err)
	return manifest{
		Version: format, Alloc: "a", Saved: start, Reason: "interval", Bytes: int64(len(state)), StoredBytes: int64(len(stored)),
		SHA256: sha256Hex(state), Codec: codec, Data: v.dataBase(),
	}, stored
}

func text(t testing.TB, v any) []byte {
	t.Helper()
	data, err := encode(v)
	must.NoError(t, err)
	return data
}

func TestVersionsSurvive(t *testing.T) {
	random := make([]byte, 100_000)
	x := uint32(1)
	for i := range random {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	for name, state := range map[string][]byte{
		"nothing": {}, "a byte": {0}, "text": []byte(strings.Repeat("state ", 10_000)), "random": random,
		"larger than a window": bytes.Repeat(random, 120),
	} {
		t.Run(name, func(t *testing.T) {
			v := ref{7, 3}
			m, stored := packed(t, v, state)
			must.LessEq(t, maxStored(int64(len(state))), int64(len(stored)))
			version, err := decodeManifest(text(t, m), v, int64(len(state)))
			must.NoError(t, err)
			must.Eq(t, v, version.ref())
			must.True(t, version.Saved.Equal(start))
			got, err := verify(version, stored)
			must.NoError(t, err)
			must.True(t, bytes.Equal(state, got))
		})
	}
}

func TestManifestRefused(t *testing.T) {
	v := ref{7, 3}
	cases := map[string]struct {
		edit func(*manifest)
		want string
	}{
		"newer format":        {func(m *manifest) { m.Version = 2 }, "this plugin reads 1 to 1"},
		"no format":           {func(m *manifest) { m.Version = 0 }, "version is 0"},
		"codec":               {func(m *manifest) { m.Codec = "gzip" }, `codec is "gzip"`},
		"data elsewhere":      {func(m *manifest) { m.Data = "../../other/00000003.data" }, "and not \"00000003.data\""},
		"short hash":          {func(m *manifest) { m.SHA256 = m.SHA256[2:] }, "sha256 is not"},
		"capital hash":        {func(m *manifest) { m.SHA256 = strings.Repeat("AB", 32) }, "sha256 is not"},
		"negative size":       {func(m *manifest) { m.Bytes = -1 }, "which cannot be"},
		"nothing stored":      {func(m *manifest) { m.StoredBytes = 0 }, "which cannot be"},
		"too much stored":     {func(m *manifest) { m.StoredBytes = 10 << 20 }, "too many for"},
		"larger than allowed": {func(m *manifest) { m.Bytes = 1 << 50 }, "above max_size of 1 KiB"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m, _ := packed(t, v, []byte("state"))
			tc.edit(&m)
			_, err := decodeManifest(text(t, m), v, 1024)
			must.ErrorContains(t, err, tc.want)
		})
	}
	_, err := decodeManifest([]byte(strings.Repeat(" ", maxObject+1)), v, 1024)
	must.ErrorContains(t, err, "more than 4096 bytes")
	_, err = decodeManifest([]byte(`{"version":1,`), v, 1024)
	must.Error(t, err)
}

func TestNewFieldsAreLeftOut(t *testing.T) {
	o, err := decodeOwner([]byte(`{"alloc":"a","node":"n","region":"eu"}`))
	must.NoError(t, err)
	must.Eq(t, Owner{Alloc: "a", Node: "n"}, o)
	_, err = decodeOwner([]byte(`{}`))
	must.ErrorContains(t, err, "alloc is empty")
	_, err = decodeEnd([]byte(`{"final":true}`))
	must.ErrorContains(t, err, "alloc is empty")
}

func TestDamagedData(t *testing.T) {
	v := ref{1, 1}
	state := []byte(strings.Repeat("abcdefgh", 1000))
	m, stored := packed(t, v, state)
	version, err := decodeManifest(text(t, m), v, 1<<20)
	must.NoError(t, err)
	t.Run("each bit", func(t *testing.T) {
		for i := range stored {
			bad := bytes.Clone(stored)
			bad[i] ^= 0x10
			if got, err := verify(version, bad); err == nil && !bytes.Equal(got, state) {
				t.Fatalf("byte %d was changed, and this went unnoticed", i)
			}
		}
	})
	t.Run("cut", func(t *testing.T) {
		_, err := verify(version, stored[:len(stored)-1])
		must.ErrorContains(t, err, "data has")
	})
	t.Run("another state", func(t *testing.T) {
		other, err := compress(bytes.Repeat([]byte("12345678"), 1000))
		must.NoError(t, err)
		version.StoredBytes = int64(len(other))
		_, err = verify(version, other)
		must.ErrorContains(t, err, "sha256 of the state is")
	})
}

// A few bytes that unpack to very many are refused before they are.
func TestBomb(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	must.NoError(t, err)
	frame := enc.EncodeAll(make([]byte, 1<<20), nil)
	must.NoError(t, enc.Close())
	bomb := bytes.Repeat(frame, 1<<12) // 4 GiB
	must.Less(t, 1<<20, len(bomb))
	_, err = decompress(bomb, 1000)
	must.True(t, errors.Is(err, zstd.ErrDecoderSizeExceeded), must.Sprint(err))

	declared, err := compress(make([]byte, 64<<20))
	must.NoError(t, err)
	_, err = decompress(declared, 1000)
	must.Error(t, err)
}

func TestCut(t *testing.T) {
	must.Eq(t, "drained", cut("drained"))
	must.Eq(t, strings.Repeat("é", maxText/2), cut(strings.Repeat("é", 1000)))
	must.Eq(t, strings.Repeat("a", maxText-1), cut(strings.Repeat("a", maxText-1)+"é"))
	worst := strings.Repeat("\x00", 1000)
	_, err := encode(manifest{Alloc: worst[:maxText], Reason: cut(worst), SHA256: strings.Repeat("a", 64)})
	must.NoError(t, err)
	_, err = encode(Owner{Alloc: worst[:maxText], Node: worst[:maxText], Claimed: time.Now()})
	must.NoError(t, err)
}
