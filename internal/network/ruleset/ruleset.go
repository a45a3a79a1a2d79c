// Package ruleset tells whether tables of nftables are still as somebody left them.
//
// It decides what counts as a change: any table, chain, rule, set, or element of the sets that were named. It reads only,
// always in the network namespace of the thread that calls, and owns nothing in the kernel.
package ruleset

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Table is a table that is looked at.
type Table struct {
	Family byte // a nftables.TableFamily
	Name   string
	// Sets are the named sets and maps whose elements count.
	Sets []string
	// Passing are the sets that packets change: neither they nor their elements count.
	Passing []string
}

// Seal is put on tables after they were written. Every change of any ruleset in the namespace raises a number in the
// kernel, so that a look at an unbroken seal is one question; only when that number was raised are the tables read. The
// zero Seal is broken.
type Seal struct {
	gen   uint32
	print []byte // nil if it was not taken
	set   bool
}

// Put seals what the kernel holds now.
func (s *Seal) Put() error {
	gen, err := Generation()
	*s = Seal{gen: gen, set: err == nil}
	return err
}

// PutAndRead is Put for tables that others may write to at once: what they hold is read now, and not only at the next look.
func (s *Seal) PutAndRead(tables []Table) (err error) {
	if err = s.Put(); err == nil {
		s.print, err = fingerprint(tables)
	}
	return err
}

// Step moves an unbroken seal over one transaction of the caller's. It says whether nobody else wrote meanwhile.
func (s *Seal) Step() (bool, error) {
	had := s.gen
	err := s.Put()
	return s.gen == had+1, err
}

// Break makes the next Intact say no.
func (s *Seal) Break() { *s = Seal{} }

// Intact says whether the tables are known to be as they were sealed.
func (s *Seal) Intact(tables []Table) (bool, error) {
	if !s.set {
		return false, nil
	}
	gen, err := Generation()
	if err != nil || gen == s.gen {
		return err == nil, err
	}
	if s.print == nil {
		return false, nil
	}
	print, err := fingerprint(tables)
	if err != nil || !bytes.Equal(print, s.print) {
		return false, err
	}
	s.gen = gen
	return true, nil
}

// Settle reads what an unbroken seal is on, so that other people's changes of other tables do not break it any more.
func (s *Seal) Settle(tables []Table) error {
	if s.print != nil {
		return nil
	}
	print, err := fingerprint(tables)
	if err != nil {
		return err
	}
	if gen, err := Generation(); err != nil || gen != s.gen {
		return err // somebody writes at this moment; the next time will do
	}
	s.print = print
	return nil
}

// Attributes of nftables messages (uapi/linux/netfilter/nf_tables.h). Tables, chains, rules, sets and elements all
// name their table, or a table itself, in the first.
const (
	attrTable       = 1
	attrSetName     = 2
	attrElementList = 3
)

// nfHeader is the size of the header in front of each message's attributes; it has the generation in it.
const nfHeader = 4

// message asks for nftables messages; nl.NetlinkRequest has the rest.
func message(kind, flags int, family byte, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(a)
	}
	return req
}

// Generation is the number that the kernel raises with every change of any ruleset in the calling thread's namespace.
func Generation() (uint32, error) {
	msgs, err := message(unix.NFT_MSG_GETGEN, unix.NLM_F_REQUEST|unix.NLM_F_ACK, unix.AF_UNSPEC).Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("read the generation of nftables: %w", err)
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nfHeader:])
		if err != nil {
			return 0, fmt.Errorf("read the generation of nftables: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_GEN_ID {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, errors.New("read the generation of nftables: no answer")
}

// fingerprint is a digest of all that the kernel holds in the tables.
func fingerprint(tables []Table) ([]byte, error) {
	h := sha256.New()
	for _, t := range tables {
		for _, kind := range []int{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET} {
			msgs, err := t.dump(kind)
			if err != nil {
				return nil, fmt.Errorf("read nftables: %w", err)
			}
			for _, m := range msgs {
				if kind != unix.NFT_MSG_GETSET || !t.passes(m) {
					h.Write(m)
				}
			}
		}
		for _, name := range t.Sets {
			all, err := t.elements(name)
			if err != nil {
				return nil, fmt.Errorf("read nftables: %w", err)
			}
			for _, e := range all {
				h.Write(e)
			}
		}
	}
	return h.Sum(nil), nil
}

// passes says whether the message, without its header, is of a set that does not count.
func (t Table) passes(msg []byte) bool {
	attrs, err := nl.ParseRouteAttr(msg)
	return err == nil && slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == attrSetName && slices.Contains(t.Passing, nl.BytesToString(a.Value))
	})
}

func (t Table) attr() *nl.RtAttr { return nl.NewRtAttr(attrTable, nl.ZeroTerminated(t.Name)) }

// dump returns what the table holds of a kind, as the kernel words it.
func (t Table) dump(kind int) ([][]byte, error) {
	var attrs []*nl.RtAttr
	if kind == unix.NFT_MSG_GETRULE || kind == unix.NFT_MSG_GETSET {
		attrs = append(attrs, t.attr()) // others take no filter
	}
	msgs, err := message(kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, t.Family, attrs...).Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ours [][]byte
	for _, m := range msgs {
		parsed, err := nl.ParseRouteAttr(m[nfHeader:])
		if err != nil {
			return nil, err
		}
		if len(parsed) > 0 && parsed[0].Attr.Type == attrTable && nl.BytesToString(parsed[0].Value) == t.Name {
			ours = append(ours, m[nfHeader:])
		}
	}
	return ours, nil
}

// elements returns the elements of a set in an order that does not depend on the kernel's hashing.
func (t Table) elements(name string) ([][]byte, error) {
	req := message(unix.NFT_MSG_GETSETELEM, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, t.Family, t.attr(), nl.NewRtAttr(attrSetName, nl.ZeroTerminated(name)))
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nfHeader:])
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if a.Attr.Type&^unix.NLA_F_NESTED != attrElementList {
				continue
			}
			list, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return nil, err
			}
			for _, e := range list {
				all = append(all, e.Value)
			}
		}
	}
	slices.SortFunc(all, bytes.Compare)
	return all, nil
}
