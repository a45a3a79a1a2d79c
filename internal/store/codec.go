package store

import (
	"fmt"
	"reflect"
	"time"

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

// The forms of an entry: what is encoded has records, what is decoded has their bytes, so that each record is read as what
// its kind says.
type (
	wireEntry[C any] struct {
		Format int
		Entry  wireGroups[C]
	}
	wireGroups[C any] struct {
		At     time.Time
		Groups []wireGroup[C]
	}
	wireGroup[C any] struct{ Changes []C } // why the group is there is left out

	// wireHead is a change without its record.
	wireHead struct {
		Kind        cluster.Kind
		ID          string
		Delete      bool   `json:",omitempty"`
		Parts       Part   `json:",omitempty"`
		Expect      uint64 `json:",omitempty"`
		ExpectState uint64 `json:",omitempty"`
	}
	wireOut struct {
		wireHead
		Value any `json:",omitempty"`
	}
	wireIn struct {
		wireHead
		Value view `json:",omitempty"`
	}
)

// view is the encoding of a value within that of the whole, for as long as the whole is being read; a [cbor.RawMessage] would
// be a copy.
type view []byte

// UnmarshalCBOR is cbor.Unmarshaler.
func (v *view) UnmarshalCBOR(data []byte) error {
	*v = data
	return nil
}

func encodeEntry(e *entry) ([]byte, error) {
	w := wireEntry[wireOut]{Format: entryFormat, Entry: wireGroups[wireOut]{At: e.At, Groups: make([]wireGroup[wireOut], len(e.Groups))}}
	m := memo{}
	for i, g := range e.Groups {
		out := make([]wireOut, len(g.Changes))
		for k, c := range g.Changes {
			out[k].wireHead = wireHead{c.Kind, c.ID, c.Delete, c.Parts, c.Expect, c.ExpectState}
			if c.Value == nil {
				continue
			}
			o := c.Value
			if c.Parts == PartState {
				o = cluster.StateOf(o) // the rest is not written
			}
			v, err := m.encodable(o)
			if err != nil {
				return nil, err
			}
			out[k].Value = v
		}
		w.Entry.Groups[i].Changes = out
	}
	return encMode.Marshal(w)
}

// decodeEntry reads what encodeEntry wrote and refuses what Apply could not apply.
func decodeEntry(data []byte, known *interned) (*entry, error) {
	var w wireEntry[wireIn]
	if err := decMode.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	if w.Format != entryFormat {
		return nil, fmt.Errorf("format %d; this version of Shoal reads format %d", w.Format, entryFormat)
	}
	e := &entry{At: w.Entry.At, Groups: make([]Group, len(w.Entry.Groups))}
	for i, g := range w.Entry.Groups {
		changes := make([]Change, len(g.Changes))
		for k := range g.Changes {
			if err := changes[k].read(&g.Changes[k], known); err != nil {
				return nil, err
			}
		}
		e.Groups[i].Changes = changes
	}
	return e, nil
}

func (c *Change) read(w *wireIn, known *interned) error {
	*c = Change{Kind: w.Kind, ID: w.ID, Delete: w.Delete, Parts: w.Parts, Expect: w.Expect, ExpectState: w.ExpectState}
	if cluster.New(w.Kind) == nil {
		return fmt.Errorf("unknown kind of record %q", w.Kind)
	}
	if w.Delete {
		if w.Expect == 0 {
			return fmt.Errorf("deletion of %s %q without a version", w.Kind, w.ID)
		}
		return nil
	}
	o, err := known.decode(w.Kind, w.Value)
	if err != nil {
		return fmt.Errorf("%s %q: %w", w.Kind, w.ID, err)
	}
	if o.Key() != w.ID || w.ID == "" || w.Parts == 0 || w.Parts > PartSpec|PartState {
		return fmt.Errorf("change of %s %q with record %q and parts %d", w.Kind, w.ID, o.Key(), w.Parts)
	}
	c.Value = o
	return nil
}
