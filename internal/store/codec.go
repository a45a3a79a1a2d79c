package store

import (
	"fmt"
	"reflect"

	"github.com/fxamacker/cbor/v2"

	"shoal.dev/shoal/internal/cluster"
)

// The encoding of records: CBOR with the names of the API's json tags. Times keep their nanoseconds (the library's
// default cuts them to seconds) and maps are sorted, so that equal records have equal bytes.
var (
	encMode = newEncMode()
	decMode = newDecMode()
)

func newEncMode() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.Time = cbor.TimeRFC3339Nano
	o.TextMarshaler = cbor.TextMarshalerTextString
	m, err := o.EncMode()
	if err != nil {
		panic("store: encoding options: " + err.Error())
	}
	return m
}

func newDecMode() cbor.DecMode {
	m, err := cbor.DecOptions{
		TextUnmarshaler:  cbor.TextUnmarshalerTextString,
		MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 20, MaxNestedLevels: 64,
		DefaultMapType: reflect.TypeFor[map[string]any](),
	}.DecMode()
	if err != nil {
		panic("store: decoding options: " + err.Error())
	}
	return m
}

// Marshal encodes a record, or a message that carries records.
func Marshal(v any) ([]byte, error) { return encMode.Marshal(v) }

// Unmarshal decodes what Marshal encoded.
func Unmarshal(data []byte, v any) error { return decMode.Unmarshal(data, v) }

// entryFormat is the version of an entry's encoding.
const entryFormat = 1

type wireEntry struct {
	Format int
	Entry  entry
}

type wireChange struct {
	Kind        cluster.Kind
	ID          string
	Delete      bool            `json:",omitempty"`
	Parts       Part            `json:",omitempty"`
	Expect      uint64          `json:",omitempty"`
	ExpectState uint64          `json:",omitempty"`
	Value       cbor.RawMessage `json:",omitempty"`
}

type wireGroup struct{ Changes []Change }

// MarshalCBOR leaves out why the group is there.
func (g Group) MarshalCBOR() ([]byte, error) { return encMode.Marshal(wireGroup{g.Changes}) }

// UnmarshalCBOR reads what MarshalCBOR wrote.
func (g *Group) UnmarshalCBOR(data []byte) error {
	var w wireGroup
	if err := decMode.Unmarshal(data, &w); err != nil {
		return err
	}
	g.Changes = w.Changes
	return nil
}

// MarshalCBOR encodes the change with its record.
func (c Change) MarshalCBOR() ([]byte, error) {
	w := wireChange{c.Kind, c.ID, c.Delete, c.Parts, c.Expect, c.ExpectState, nil}
	if c.Value != nil {
		o := c.Value
		if c.Parts == PartState {
			o = cluster.StateOf(o) // the rest is not written
		}
		b, err := encMode.Marshal(o)
		if err != nil {
			return nil, err
		}
		w.Value = b
	}
	return encMode.Marshal(w)
}

// UnmarshalCBOR reads what MarshalCBOR wrote and refuses what Apply could not apply.
func (c *Change) UnmarshalCBOR(data []byte) error {
	var w wireChange
	if err := decMode.Unmarshal(data, &w); err != nil {
		return err
	}
	*c = Change{Kind: w.Kind, ID: w.ID, Delete: w.Delete, Parts: w.Parts, Expect: w.Expect, ExpectState: w.ExpectState}
	o := cluster.New(w.Kind)
	if o == nil {
		return fmt.Errorf("unknown kind of record %q", w.Kind)
	}
	if w.Delete {
		if w.Expect == 0 {
			return fmt.Errorf("deletion of %s %q without a version", w.Kind, w.ID)
		}
		return nil
	}
	if err := decMode.Unmarshal(w.Value, o); err != nil {
		return fmt.Errorf("%s %q: %w", w.Kind, w.ID, err)
	}
	if o.Key() != w.ID || w.ID == "" || w.Parts == 0 || w.Parts > PartSpec|PartState {
		return fmt.Errorf("change of %s %q with record %q and parts %d", w.Kind, w.ID, o.Key(), w.Parts)
	}
	c.Value = o
	return nil
}

func encodeEntry(e *entry) ([]byte, error) { return encMode.Marshal(wireEntry{entryFormat, *e}) }

func decodeEntry(data []byte) (*entry, error) {
	var w wireEntry
	if err := decMode.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	if w.Format != entryFormat {
		return nil, fmt.Errorf("format %d; this version of Shoal reads format %d", w.Format, entryFormat)
	}
	return &w.Entry, nil
}
