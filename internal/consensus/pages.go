package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// This file checks the structure of a bbolt file without bbolt, which trusts its pages: a changed bit in one makes it panic in
// goroutines of its own, fault, or loop. The format (version 2, go.etcd.io/bbolt/internal/common) in the host's byte order:
//
//	page:    id (8), flags (2), count (2), overflow (4), elements, keys and values; overflow pages follow
//	meta:    page header, magic (4), version (4), page size (4), flags (4), root bucket (8+8), free list (8), pages in use (8),
//	         transaction (8), FNV-1a of what is before (8); pages 0 and 1, the newer valid one counts
//	branch element: position of the key from the element (4), its size (4), page (8)
//	leaf element:   flags (4; 1: the value is a bucket), position (4), key size (4), value size (4)
//	bucket:  root page (8), sequence (8), and where the root is 0 the only page itself
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader  = 16
	metaSize    = 64
	elementSize = 16
	bucketSize  = 16

	flagBranch = 1
	flagLeaf   = 2
	flagMeta   = 4
	flagFree   = 16
	flagBucket = 1

	noFreeList = ^uint64(0)

	minPage, maxPage = 1 << 10, 1 << 16
	// maxDepth is far more than a tree of 2^64 entries has.
	maxDepth = 32
)

var order = binary.NativeEndian

// pages reads a bbolt file.
type pages struct {
	r    io.ReaderAt
	size int
	// high is the number of pages in use; root is the root bucket's page.
	high, root, free uint64
	seen             map[uint64]bool
}

// pair is an element of a leaf. It is valid during the call that it is given to.
type pair struct {
	bucket     bool
	key, value []byte
}

// openPages finds the newest valid meta page.
func openPages(r io.ReaderAt) (*pages, error) {
	var best []byte
	for size := minPage; size <= maxPage; size <<= 1 {
		for i := range int64(2) {
			b := make([]byte, pageHeader+metaSize)
			if _, err := r.ReadAt(b, i*int64(size)); err != nil {
				continue
			}
			m := b[pageHeader:]
			if !validMeta(m) || int(order.Uint32(m[8:])) != size || order.Uint16(b[8:]) != flagMeta {
				continue
			}
			if best == nil || order.Uint64(m[48:]) > order.Uint64(best[48:]) {
				best = m
			}
		}
	}
	if best == nil {
		return nil, errors.New("it has no valid first page")
	}
	return &pages{
		r: r, size: int(order.Uint32(best[8:])), root: order.Uint64(best[16:]), free: order.Uint64(best[32:]), high: order.Uint64(best[40:]),
		seen: map[uint64]bool{},
	}, nil
}

func validMeta(m []byte) bool {
	h := fnv.New64a()
	h.Write(m[:56])
	return order.Uint32(m) == boltMagic && order.Uint32(m[4:]) == boltVersion && order.Uint64(m[56:]) == h.Sum64()
}

// page reads a page with those that it flows over into.
func (p *pages) page(id uint64) ([]byte, error) {
	if id < 2 || id >= p.high {
		return nil, fmt.Errorf("page %d is not one of its %d", id, p.high)
	}
	head := make([]byte, pageHeader)
	if _, err := p.r.ReadAt(head, int64(id)*int64(p.size)); err != nil {
		return nil, fmt.Errorf("it is cut off at page %d of %d: %w", id, p.high, err)
	}
	more := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || id+more >= p.high {
		return nil, fmt.Errorf("the header of page %d is wrong", id)
	}
	for i := id; i <= id+more; i++ {
		if p.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		p.seen[i] = true
	}
	b := make([]byte, int(more+1)*p.size)
	if _, err := p.r.ReadAt(b, int64(id)*int64(p.size)); err != nil {
		return nil, fmt.Errorf("it is cut off in page %d of %d: %w", id, p.high, err)
	}
	return b, nil
}

// walk calls fn for all pairs of the bucket whose root is the page, in the order of their keys.
func (p *pages) walk(root uint64, fn func(pair) error) error {
	return p.tree(root, nil, nil, 0, fn)
}

// walkBucket does it for a bucket that is the value of a pair.
func (p *pages) walkBucket(value []byte, fn func(pair) error) error {
	if len(value) < bucketSize {
		return errors.New("a bucket is cut off")
	}
	if root := order.Uint64(value); root != 0 {
		return p.walk(root, fn)
	}
	return p.leaf(value[bucketSize:], 0, nil, nil, fn)
}

// tree walks the pages under id, whose keys must be from low and below high (nil: any).
func (p *pages) tree(id uint64, low, high []byte, depth int, fn func(pair) error) error {
	b, err := p.page(id)
	if err != nil {
		return err
	}
	switch order.Uint16(b[8:]) {
	case flagLeaf:
		return p.leaf(b, id, low, high, fn)
	case flagBranch:
	default:
		return fmt.Errorf("page %d is of no known kind", id)
	}
	if depth >= maxDepth {
		return fmt.Errorf("page %d is too deep", id)
	}
	n := int(order.Uint16(b[10:]))
	if n == 0 {
		return fmt.Errorf("page %d is empty", id)
	}
	keys, children := make([][]byte, n), make([]uint64, n)
	for i := range n {
		at := pageHeader + i*elementSize
		if at+elementSize > len(b) {
			return fmt.Errorf("page %d has too many elements", id)
		}
		e := b[at:]
		if keys[i], _, err = slice(e, order.Uint32(e), order.Uint32(e[4:]), 0); err != nil {
			return fmt.Errorf("element %d of page %d: %w", i, id, err)
		}
		children[i] = order.Uint64(e[8:])
		if !between(keys[i], low, high) || i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 {
			return fmt.Errorf("element %d of page %d is out of order", i, id)
		}
	}
	for i := range n {
		upper := high
		if i+1 < n {
			upper = keys[i+1]
		}
		if err := p.tree(children[i], keys[i], upper, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}

// leaf walks one page's pairs; id is for errors.
func (p *pages) leaf(b []byte, id uint64, low, high []byte, fn func(pair) error) error {
	if len(b) < pageHeader || order.Uint16(b[8:]) != flagLeaf {
		return fmt.Errorf("page %d is no leaf", id)
	}
	var last []byte
	for i := range int(order.Uint16(b[10:])) {
		at := pageHeader + i*elementSize
		if at+elementSize > len(b) {
			return fmt.Errorf("page %d has too many elements", id)
		}
		e := b[at:]
		flags := order.Uint32(e)
		k, v, err := slice(e, order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:]))
		if err != nil || flags > flagBucket {
			return fmt.Errorf("element %d of page %d has a wrong size or kind", i, id)
		}
		if !between(k, low, high) || i > 0 && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("element %d of page %d is out of order", i, id)
		}
		last = k
		if err := fn(pair{flags == flagBucket, k, v}); err != nil {
			return err
		}
	}
	return nil
}

func between(k, low, high []byte) bool {
	return (low == nil || bytes.Compare(k, low) >= 0) && (high == nil || bytes.Compare(k, high) < 0)
}

// slice cuts an element's key and value out of its page; e begins with the element.
func slice(e []byte, pos, ksize, vsize uint32) (k, v []byte, err error) {
	end := uint64(pos) + uint64(ksize) + uint64(vsize)
	if pos < elementSize || ksize == 0 || end > uint64(len(e)) {
		return nil, nil, errors.New("it is empty or larger than its page")
	}
	return e[pos : pos+ksize], e[pos+ksize : end], nil
}

// checkFree checks the list of free pages, which only a new file has.
func (p *pages) checkFree() error {
	if p.free == noFreeList {
		return nil
	}
	b, err := p.page(p.free)
	if err != nil {
		return err
	}
	n := int(order.Uint16(b[10:]))
	if order.Uint16(b[8:]) != flagFree || n == 0xffff || pageHeader+8*n > len(b) {
		return fmt.Errorf("page %d is no list of free pages", p.free)
	}
	for i := range n {
		if id := order.Uint64(b[pageHeader+8*i:]); id < 2 || id >= p.high || p.seen[id] {
			return fmt.Errorf("page %d is free and in use", id)
		}
	}
	return nil
}
