package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxObject bounds an object that is not data, in bytes.
	maxObject = 4 << 10
	// maxText bounds the texts in them, in bytes.
	maxText = 256
	// format is the version of the format that is written. An older one can
	// be read, a newer one cannot.
	format = 1
	codec  = "zstd"
)

// Owner is who has claimed an epoch.
type Owner struct {
	Alloc   string    `json:"alloc"`   // ID of the allocation
	Node    string    `json:"node"`    // ID of its node
	Claimed time.Time `json:"claimed"` // by the clock of that node
	ID      string    `json:"id"`      // of the claim, so that two of one allocation differ
}

// End says that an owner has finished.
type End struct {
	Alloc  string    `json:"alloc"`
	Ended  time.Time `json:"ended"` // by the clock of its node
	Reason string    `json:"reason"`
	Final  bool      `json:"final"` // its state is not to be taken up again
}

// Version describes a checkpoint.
type Version struct {
	Epoch       int       // in which it was saved; higher is newer
	Seq         int       // its number in the epoch; higher is newer
	Alloc       string    // ID of the allocation that saved it
	Saved       time.Time // when, by the clock of its node
	Reason      string    // why
	Bytes       int64     // of the state
	StoredBytes int64     // of it compressed
	SHA256      string    // of the state, in lower-case hexadecimal
}

func (v Version) ref() ref { return ref{v.Epoch, v.Seq} }

// manifest is what lies in the store of a Version.
type manifest struct {
	Version     int       `json:"version"` // of the format
	Alloc       string    `json:"alloc"`
	Saved       time.Time `json:"saved"`
	Reason      string    `json:"reason"`
	Bytes       int64     `json:"bytes"`
	StoredBytes int64     `json:"stored_bytes"`
	SHA256      string    `json:"sha256"`
	Codec       string    `json:"codec"`
	Data        string    `json:"data"` // name of the object with the data, beside the manifest
}

func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ") // people read it in Consul's UI
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if len(data) > maxObject {
		return nil, fmt.Errorf("encode: %d bytes are more than %d; use shorter names", len(data), maxObject)
	}
	return data, nil
}

// decode reads JSON. Unknown fields are left out: a newer plugin may have
// written them while nodes are upgraded one by one.
func decode(data []byte, v any) error {
	if len(data) > maxObject {
		return fmt.Errorf("has more than %d bytes", maxObject)
	}
	return json.Unmarshal(data, v)
}

func decodeOwner(data []byte) (Owner, error) {
	var o Owner
	if err := decode(data, &o); err != nil {
		return Owner{}, err
	}
	if o.Alloc == "" {
		return Owner{}, errors.New("alloc is empty")
	}
	return o, nil
}

func decodeEnd(data []byte) (End, error) {
	var e End
	if err := decode(data, &e); err != nil {
		return End{}, err
	}
	if e.Alloc == "" {
		return End{}, errors.New("alloc is empty")
	}
	return e, nil
}

// decodeManifest reads the manifest of version v and checks that it can be one.
func decodeManifest(data []byte, v ref, maxSize int64) (Version, error) {
	var m manifest
	if err := decode(data, &m); err != nil {
		return Version{}, err
	}
	sum, err := hex.DecodeString(m.SHA256)
	switch {
	case m.Version < 1 || m.Version > format:
		return Version{}, fmt.Errorf("version is %d, and this plugin reads 1 to %d", m.Version, format)
	case m.Codec != codec:
		return Version{}, fmt.Errorf("codec is %q, and this plugin reads %q", m.Codec, codec)
	case m.Data != v.dataBase():
		return Version{}, fmt.Errorf("data is %q, and not %q", m.Data, v.dataBase())
	case err != nil || len(sum) != sha256.Size || strings.ToLower(m.SHA256) != m.SHA256:
		return Version{}, errors.New("sha256 is not 64 hexadecimal digits")
	case m.Bytes < 0 || m.StoredBytes <= 0:
		return Version{}, fmt.Errorf("bytes is %d and stored_bytes is %d, which cannot be", m.Bytes, m.StoredBytes)
	case m.Bytes > maxSize:
		return Version{}, &TooLargeError{m.Bytes, maxSize, fmt.Sprintf("state of %s is above max_size of %s; raise checkpoint.max_size", kib(m.Bytes), kib(maxSize))}
	case m.StoredBytes > maxStored(m.Bytes):
		return Version{}, fmt.Errorf("stored_bytes is %d, which is too many for %d bytes", m.StoredBytes, m.Bytes)
	}
	return Version{v.epoch, v.seq, m.Alloc, m.Saved, m.Reason, m.Bytes, m.StoredBytes, m.SHA256}, nil
}

// maxStored is more than zstd makes of n bytes that cannot be compressed.
func maxStored(n int64) int64 { return n + n/64 + 1024 }

func compress(state []byte) ([]byte, error) {
	// Frames also of nothing, so that each object can be unpacked by zstd.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	stored := enc.EncodeAll(state, nil)
	return stored, enc.Close()
}

// minMemory is what unpacking may always take: the window of a frame may be
// larger than what is in it.
const minMemory = 8 << 20

// decompress unpacks what must be size bytes.
func decompress(stored []byte, size int64) ([]byte, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(size, minMemory))))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	defer dec.Close()
	state, err := dec.DecodeAll(stored, nil)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if int64(len(state)) != size {
		return nil, fmt.Errorf("decompress: there are %d bytes, and not %d", len(state), size)
	}
	return state, nil
}

// verify unpacks a version's data and checks that it is what was saved.
func verify(v Version, stored []byte) ([]byte, error) {
	if int64(len(stored)) != v.StoredBytes {
		return nil, fmt.Errorf("data has %d bytes, and not %d", len(stored), v.StoredBytes)
	}
	state, err := decompress(stored, v.Bytes)
	if err != nil {
		return nil, err
	}
	if sum := sha256Hex(state); sum != v.SHA256 {
		return nil, fmt.Errorf("sha256 of the state is %s, and not %s", sum, v.SHA256)
	}
	return state, nil
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// cut bounds a text, so that a long one does not stand in the way of a save.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "")
}
