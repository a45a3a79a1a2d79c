// Package cluster holds the records of a swarm: what Raft replicates, what the store keeps, what an agent receives
// and, minus secrets, what the Engine API serves. It is one Go value all the way; there is no conversion layer.
//
// It decides the order of task states, what is the specification and what is the observed state of a record, and
// which specifications are valid. It owns no storage, no clock and no randomness but [NewID]. It never imports
// anything of Shoal.
//
// # Two parts of a record
//
// Every record has a specification part (what somebody wants) and a state part (what was observed or derived). They
// are versioned apart, so that a flood of observations starves no plan and never makes a user's update "out of
// sequence". [Object.MergeState] is the one place that says which field belongs to which part.
package cluster

import (
	"crypto/rand"
	"math/big"

	"github.com/moby/moby/api/types/swarm"
)

// Kind names a kind of record.
type Kind string

// The kinds of record.
const (
	KindSwarm     Kind = "swarm"     // exactly one: the swarm's settings
	KindNode      Kind = "node"      // a member
	KindService   Kind = "service"   // what a user wants to run
	KindTask      Kind = "task"      // one try to run it
	KindNetwork   Kind = "network"   // a swarm-wide network
	KindClaim     Kind = "claim"     // something that is unique: a name, a port, an address, a slot
	KindAuthority Kind = "authority" // exactly one: the CA's key. It has no route.
	KindSecret    Kind = "secret"    // what is known of a secret but its bytes
	KindConfig    Kind = "config"    // a file that services share
	// KindSecretData is a secret's bytes. It has no route, and it leaves a manager only for nodes whose tasks use it.
	KindSecretData Kind = "secret-data"
	// KindUnlockKey is the key of locked managers; at most one. Its route serves it to whoever may ask a manager.
	KindUnlockKey Kind = "unlock-key"
	// KindCredentials is what a service's images are pulled with. It has no route.
	KindCredentials Kind = "credentials"
)

// Object is a record. A value in the store is immutable: whoever changes one changes a [Object.Clone].
type Object interface {
	// Kind is the record's kind; it is constant per Go type.
	Kind() Kind
	// Key is the record's ID, unique within its kind.
	Key() string
	// GetMeta is the record's metadata; Meta.Version.Index is the version of the specification part, which is the
	// index of the log entry that wrote it. 0 means that the record is not in the store yet.
	GetMeta() *swarm.Meta
	// GetStateVersion is the version of the state part, likewise.
	GetStateVersion() *uint64
	// Clone is a deep copy.
	Clone() Object
	// MergeState sets the receiver's state part to that of from, which is of the same type. It shares what the
	// fields refer to.
	MergeState(from Object)
}

// The ID of the one record of its kind, for KindSwarm, KindAuthority and KindUnlockKey.
const SingletonID = "swarm"

// idAlphabet and idLength are those of Swarm's IDs: 25 digits to the base 36, about 128 bits.
const idLength = 25

var idLimit = new(big.Int).Exp(big.NewInt(36), big.NewInt(idLength), nil)

// NewID returns a new random ID in Swarm's format: 25 characters of [0-9a-z].
func NewID() string {
	n, err := rand.Int(rand.Reader, idLimit)
	if err != nil { // crypto/rand does not fail on Linux; without randomness nothing is safe
		panic("cluster: no randomness: " + err.Error())
	}
	s := n.Text(36)
	for len(s) < idLength {
		s = "0" + s
	}
	return s
}
