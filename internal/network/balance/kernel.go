package balance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftTimeout bounds one run of the nft program. Loading 100,000 elements takes about a second.
const nftTimeout = 30 * time.Second

// nft has the nft program execute text as one transaction.
func (t *Table) nft(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, nftTimeout)
	defer cancel()
	return t.cfg.In(func() error {
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return errors.New("the program nft is not installed; install the package nftables")
		case err != nil:
			return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// Attributes of nftables messages (uapi/linux/netfilter/nf_tables.h). Tables, chains, rules, sets and elements all
// name their table, or a table itself, in the first.
const (
	attrTable       = 1
	attrSetName     = 2
	attrElementList = 3
)

// message asks for nftables messages; nl.NetlinkRequest has the rest.
func message(kind, flags int, family byte, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(a)
	}
	return req
}

// nfHeader is the size of the header in front of each message's attributes; it has the generation in it.
const nfHeader = 4

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

func (t *Table) generation() (gen uint32, err error) {
	err = t.cfg.In(func() error {
		gen, err = Generation()
		return err
	})
	return gen, err
}

// fingerprint is a digest of all that the kernel holds in our tables.
func (t *Table) fingerprint() ([]byte, error) {
	h := sha256.New()
	err := t.cfg.In(func() error {
		for _, family := range []byte{byte(nftables.TableFamilyIPv4), byte(nftables.TableFamilyNetdev)} {
			for _, kind := range []int{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET} {
				msgs, err := dump(kind, family)
				if err != nil {
					return err
				}
				for _, m := range msgs {
					if kind != unix.NFT_MSG_GETSET || !names(m, countedSet) { // packets change that one
						h.Write(m)
					}
				}
			}
			sets := []string{"peers"}
			if family == byte(nftables.TableFamilyIPv4) {
				sets = []string{"zones", "marks", "nodes", "ports", "closed", "bound", "published"}
			}
			for _, name := range sets {
				all, err := setElements(family, name)
				if err != nil {
					return err
				}
				for _, e := range all {
					h.Write(e)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read nftables: %w", err)
	}
	return h.Sum(nil), nil
}

// names says whether the message, without its header, is of the set.
func names(msg []byte, set string) bool {
	attrs, err := nl.ParseRouteAttr(msg)
	return err == nil && slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == attrSetName && nl.BytesToString(a.Value) == set
	})
}

func tableAttr() *nl.RtAttr { return nl.NewRtAttr(attrTable, nl.ZeroTerminated(tableName)) }

// dump returns what our table of the family holds of a kind, as the kernel words it.
func dump(kind int, family byte) ([][]byte, error) {
	var attrs []*nl.RtAttr
	if kind == unix.NFT_MSG_GETRULE || kind == unix.NFT_MSG_GETSET {
		attrs = append(attrs, tableAttr()) // others take no filter
	}
	msgs, err := message(kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family, attrs...).Execute(unix.NETLINK_NETFILTER, 0)
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
		if len(parsed) > 0 && parsed[0].Attr.Type == attrTable && nl.BytesToString(parsed[0].Value) == tableName {
			ours = append(ours, m[nfHeader:])
		}
	}
	return ours, nil
}

// setElements returns the elements of a set in an order that does not depend on the kernel's hashing.
func setElements(family byte, name string) ([][]byte, error) {
	req := message(unix.NFT_MSG_GETSETELEM, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family,
		tableAttr(), nl.NewRtAttr(attrSetName, nl.ZeroTerminated(name)))
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
