package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/shoalnet/shoal/node/files"
)

// The journal records which leaves are held. It is a sequence of 16-byte
// records: an operation, two numbers, and a checksum of the three, all
// little-endian. A torn or damaged record ends the journal; leaves that later
// records named are fetched again.
//
// A leaf's record is written after its bytes, so that a killed process loses no
// acknowledged leaf. Data and journal are synced in batches. After a batch, a
// record states up to which offset the journal can be trusted after a power
// cut; open hashes again the leaves that it names beyond that.
const (
	opHeld    = 1 // shard, leaf
	opDropped = 2 // shard, leaf
	opDurable = 3 // low and high half of a journal offset: everything before it is on disk
	opDamaged = 4 // shard, leaf: like opDropped, because its bytes were wrong
)

const (
	recordSize = 16
	syncEvery  = 64 // leaves; so open hashes little more than 64 MiB again
)

func appendRecord(b []byte, op, x, y uint32) []byte {
	n := len(b)
	b = binary.LittleEndian.AppendUint32(b, op)
	b = binary.LittleEndian.AppendUint32(b, x)
	b = binary.LittleEndian.AppendUint32(b, y)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[n:]))
}

// scanJournal calls f with each record and its offset, and returns the length
// of the valid part.
func scanJournal(r io.Reader, f func(at int64, op, x, y uint32)) int64 {
	br := bufio.NewReaderSize(r, 1<<16)
	var at int64
	var rec [recordSize]byte
	for {
		if _, err := io.ReadFull(br, rec[:]); err != nil || crc32.ChecksumIEEE(rec[:12]) != binary.LittleEndian.Uint32(rec[12:]) {
			return at
		}
		le := binary.LittleEndian
		f(at, le.Uint32(rec[:]), le.Uint32(rec[4:]), le.Uint32(rec[8:]))
		at += recordSize
	}
}

// readJournal replays the journal. It returns the leaves whose data may not
// have been synced.
func (m *Model) readJournal() (doubtful []place, err error) {
	whole := func() io.Reader { return io.NewSectionReader(m.journal, 0, 1<<62) }
	var durable, records int64
	m.journalSize = scanJournal(whole(), func(at int64, op, x, y uint32) {
		if off := int64(x) | int64(y)<<32; op == opDurable && off <= at {
			durable = max(durable, off)
		}
	})
	scanJournal(io.LimitReader(whole(), m.journalSize), func(at int64, op, x, y uint32) {
		records++
		if op == opDurable || int64(x) >= int64(len(m.shards)) || int64(y) >= int64(len(m.shards[x].held)) {
			return
		}
		p := place{int(x), int(y)}
		m.mark(p, op)
		if op == opHeld && at >= durable {
			doubtful = append(doubtful, p)
		}
	})
	if durable == m.journalSize-recordSize {
		m.durable = m.journalSize // the journal ends in its own checkpoint
	}
	if err := m.journal.Truncate(m.journalSize); err != nil {
		return nil, full(err)
	}
	var held int64
	for i := range m.shards {
		held += int64(m.shards[i].count)
	}
	if records > 4096 && records > 4*held {
		if err := m.compact(); err != nil && !errors.Is(err, ErrFull) { // then it stays as it was
			return nil, err
		}
	}
	return doubtful, nil
}

// note records that a leaf is held, or no longer is. Called with mu held, after
// the leaf's bytes have been written.
func (m *Model) note(op uint32, p place) error {
	s := &m.shards[p.shard]
	if s.held[p.leaf] == (op == opHeld) && s.bad[p.leaf] == (op == opDamaged) {
		return nil
	}
	// Always written at the known end, so that a record torn by a full disk is
	// overwritten.
	if _, err := m.journal.WriteAt(appendRecord(nil, op, uint32(p.shard), uint32(p.leaf)), m.journalSize); err != nil {
		return m.failed(err)
	}
	m.journalSize += recordSize
	m.mark(p, op)
	return nil
}

// mark updates the counts.
func (m *Model) mark(p place, op uint32) {
	s, held := &m.shards[p.shard], op == opHeld
	if op == opDamaged {
		s.bad[p.leaf] = true
	} else {
		delete(s.bad, p.leaf)
	}
	if s.held[p.leaf] == held {
		return
	}
	s.held[p.leaf] = held
	_, size := s.at(p.leaf)
	if held {
		s.count++
		s.bytes += int64(size)
	} else {
		s.count--
		s.bytes -= int64(size)
	}
}

// Sync makes everything held durable: first the data, then the journal that
// names it. Errors are ErrFull, and ErrNotFound if the model was removed.
func (m *Model) Sync() error {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	return m.sync()
}

// sync implements Sync. Called with syncing held.
func (m *Model) sync() error {
	m.mu.RLock()
	upto := m.journalSize
	m.mu.RUnlock()
	if upto == m.durable {
		return nil
	}
	if err := errors.Join(m.data.Sync(), m.nodesF.Sync()); err != nil {
		return m.failed(err)
	}
	m.mu.Lock()
	_, err := m.journal.WriteAt(appendRecord(nil, opDurable, uint32(upto), uint32(upto>>32)), m.journalSize)
	if err == nil {
		m.durable = upto
		if m.journalSize == upto { // no record was added in between
			m.durable += recordSize
		}
		m.journalSize += recordSize
	}
	m.mu.Unlock()
	return m.failed(errors.Join(err, m.journal.Sync()))
}

// syncIfDue syncs after every syncEvery leaves. One caller does; the others
// need not wait for the disk.
func (m *Model) syncIfDue() error {
	if !m.syncing.TryLock() {
		return nil
	}
	defer m.syncing.Unlock()
	m.mu.RLock()
	due := m.journalSize-m.durable >= syncEvery*recordSize
	m.mu.RUnlock()
	if due {
		return m.sync()
	}
	return nil
}

// compact rewrites the journal to contain only what is held. Called with mu
// held, or before the model is shared.
func (m *Model) compact() error {
	raw := heldRecords(m.shards)
	if int64(len(raw)) == m.journalSize {
		return nil // it contains nothing else
	}
	if err := errors.Join(m.data.Sync(), m.nodesF.Sync()); err != nil {
		return m.failed(err)
	}
	path := filepath.Join(m.dir, "journal")
	if err := files.Replace(path, raw, 0o644); err != nil {
		return full(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	m.journal.Close()
	m.journal, m.journalSize, m.durable = f, int64(len(raw)), int64(len(raw))
	return files.SyncDir(m.dir)
}

// heldRecords returns the journal of a model whose data is on disk.
func heldRecords(shards []shard) []byte {
	var raw []byte
	for i := range shards {
		for n, held := range shards[i].held {
			switch {
			case held:
				raw = appendRecord(raw, opHeld, uint32(i), uint32(n))
			case shards[i].bad[n]:
				raw = appendRecord(raw, opDamaged, uint32(i), uint32(n))
			}
		}
	}
	return appendRecord(raw, opDurable, uint32(len(raw)), uint32(len(raw)>>32))
}

// The nodes file is a sequence of records: a length, a checksum, and the bytes
// of a shard's node.
const nodeHead = 8

func appendNode(b, raw []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(raw)))
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(raw))
	return append(b, raw...)
}

func (m *Model) readNodes() error {
	m.scanNodes()
	return full(m.nodesF.Truncate(m.nodesSize))
}

// scanNodes reads the intact nodes.
func (m *Model) scanNodes() {
	r := bufio.NewReaderSize(io.NewSectionReader(m.nodesF, 0, 1<<62), 1<<16)
	for {
		var head [nodeHead]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			break
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n > maxNode {
			break
		}
		raw := make([]byte, n)
		if _, err := io.ReadFull(r, raw); err != nil || crc32.ChecksumIEEE(raw) != binary.LittleEndian.Uint32(head[4:]) {
			break
		}
		if c, err := nodePrefix.Sum(raw); err == nil {
			m.nodes[c] = raw
		}
		m.nodesSize += nodeHead + int64(n)
	}
}

// writeNode appends a node. Called with mu held.
func (m *Model) writeNode(raw []byte) error {
	c, err := nodePrefix.Sum(raw)
	if err != nil || m.nodes[c] != nil {
		return err
	}
	b := appendNode(nil, raw)
	if _, err := m.nodesF.WriteAt(b, m.nodesSize); err != nil {
		return m.failed(err)
	}
	m.nodesSize += int64(len(b))
	m.nodes[c] = raw
	delete(m.wanted, c)
	return nil
}
