package cluster

import (
	"fmt"

	"github.com/moby/moby/api/types/swarm"
)

// UnlockKey is what managers need after a restart while the swarm locks them (autolock). There is at most one. It is not
// deleted when locking is switched off, so that its version says of each manager's disk whether it has heard of that.
// All of it is specification.
type UnlockKey struct {
	ID string
	swarm.Meta
	StateVersion uint64 `json:",omitempty"`
	// Bytes are the key, see pki.NewUnlockKey; none: managers are not locked.
	Bytes []byte `json:",omitempty"`
}

func (*UnlockKey) Kind() Kind                 { return KindUnlockKey }
func (*UnlockKey) Key() string                { return SingletonID }
func (k *UnlockKey) GetMeta() *swarm.Meta     { return &k.Meta }
func (k *UnlockKey) GetStateVersion() *uint64 { return &k.StateVersion }
func (k *UnlockKey) Clone() Object            { return deepCopy(k) }

// MergeState does nothing: the key is all specification.
func (*UnlockKey) MergeState(Object) {}

// String keeps the key out of whatever prints the record.
func (k *UnlockKey) String() string { return fmt.Sprintf("unlock-key (%d bytes)", len(k.Bytes)) }

// GoString is String.
func (k *UnlockKey) GoString() string { return k.String() }
