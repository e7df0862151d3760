package exchange

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// A leaf that nobody in the swarm has is asked of an origin, or of a holder that
// does not fetch, by one member: its owner. The members that want the leaf have
// an order, the same in the eyes of all, which differs from leaf to leaf; the
// first is the owner. This node's place is that of its peer ID in the network of the
// member that it is compared with; it owns what it would own in each of its networks, so
// that one node fetches for all of them what several swarms lack.
//
// An owner may be slow. It is passed over only if it has brought nothing for
// many times the mean time per leaf of the swarm's members, however long that is;
// then the next in line is the owner. A member that gets leaves at less than half
// the mean rate keeps its leaves, but the next in line helps when it has no other
// work. So each leaf comes about once at any speed: ten fetchers whose links have
// a tenth of a home's speed take 1.0 to 1.3 times the file from the origin. With
// fixed times for the handover they took it six times (TestSlowSwarm).
//
// A leaf that somebody in the swarm has is not asked of an origin, unless peers
// send nothing for many times their mean time per leaf.

const (
	gaps          = 12               // mean times per leaf that an owner may bring nothing: its first leaves share a link with three other requests
	patienceLeast = 10 * time.Second // the same, at least
	patienceFirst = 30 * time.Second // the same, while the swarm's speed is not known
	starveTime    = giveUp * 2 / 3   // without a byte, before this node asks any source for any leaf
	starveStep    = time.Second      // later for each member in line before this node
	ahead         = 4                // leaves by which a member may be behind before it lags
	runLeaves     = 8                // consecutive leaves that have the same owner
)

// saltOf is a number that every node computes for a peer alike.
func saltOf(p peer.ID) uint64 {
	sum := sha256.Sum256([]byte(p))
	return binary.LittleEndian.Uint64(sum[:])
}

// mix is SplitMix64's output function.
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// creditLeaf notes that a member got a leaf. If nobody else in the swarm has the
// leaf, the member brought it in. Called with mu held.
func (s *scheduler) creditLeaf(m *swarmPeer, leaf int) {
	if t := s.byNumber[leaf]; t == nil || t.done || s.swarmWith[leaf] > 0 {
		return
	}
	now := time.Now()
	m.broughtTook += min(s.patience()/4, now.Sub(latest(m.joined, m.broughtAt)))
	m.broughtBytes += int64(s.byNumber[leaf].need.Size)
	m.broughtAt, m.passed = now, false
}

// nextInLine returns the first member in a leaf's order that lacks the leaf,
// among those after a place in the order and before this node, and its place;
// nil: there is none. Members that were passed over do not count. Called with mu
// held.
func (s *scheduler) nextInLine(t *openLeaf, after uint64) (*swarmPeer, uint64) {
	key := uint64(t.need.Number / runLeaves)
	var best *swarmPeer
	var least uint64
	for st := range s.sources {
		m := st.swarmPeer
		if m == nil || m.passed || m.unreliable || !protocol.Bit(m.wanted, t.need.Number) || protocol.Bit(m.held, t.need.Number) {
			continue
		}
		place := mix(m.salt ^ key)
		if before := place < mix(m.in.salt^key); before && place > after && (best == nil || place < least) {
			best, least = m, place
		}
	}
	return best, least
}

// owner is the member that is to get a leaf from outside the swarm; nil: this
// node. Called with mu held.
func (s *scheduler) owner(t *openLeaf) *swarmPeer {
	m, _ := s.nextInLine(t, 0)
	return m
}

// after is the member next in line after another one; nil: this node. Called
// with mu held.
func (s *scheduler) after(m *swarmPeer, t *openLeaf) *swarmPeer {
	n, _ := s.nextInLine(t, mix(m.salt^uint64(t.need.Number/runLeaves)))
	return n
}

// countBefore counts the members in line before this node. Called with mu held.
func (s *scheduler) countBefore(t *openLeaf) (n int) {
	for m, at := s.nextInLine(t, 0); m != nil; m, at = s.nextInLine(t, at) {
		n++
	}
	return n
}

// passOver reports whether an owner has brought nothing for too long; it is then
// no owner until it brings something. One member is passed over at a time: the
// next in line first gets as long. Called with mu held.
func (s *scheduler) passOver(m *swarmPeer, t *openLeaf, at moment) bool {
	last := latest(m.joined, m.broughtAt, t.orphanedAt, s.passedAt)
	if at.now.Sub(last) <= at.patience {
		return false
	}
	m.passed, s.passedAt = true, at.now
	return true
}

// latest is the latest of some times.
func latest(list ...time.Time) time.Time { return slices.MaxFunc(list, time.Time.Compare) }

// patience is how long a member of the swarm may bring nothing. Called with mu
// held.
func (s *scheduler) patience() time.Duration {
	took, sum := s.ownTook, s.ownBytes
	for st := range s.sources {
		if m := st.swarmPeer; m != nil {
			took += m.broughtTook
			sum += m.broughtBytes
		}
	}
	return patience(took, sum)
}

// patience is gaps times the mean time per leaf of LeafSize, from the time that
// some bytes took.
func patience(took time.Duration, sum int64) time.Duration {
	if sum < protocol.LeafSize/2 {
		return patienceFirst
	}
	return max(patienceLeast, time.Duration(gaps*took.Seconds()*protocol.LeafSize/float64(sum)*float64(time.Second)))
}

// lags reports whether a member gets leaves at less than half the swarm's mean
// rate. Called with mu held.
func (s *scheduler) lags(m *swarmPeer, now time.Time) bool {
	took, leaves := now.Sub(s.began), len(s.byNumber)-s.openLeaves
	for st := range s.sources {
		if o := st.swarmPeer; o != nil && o.inSwarm {
			took += now.Sub(o.joined)
			leaves += o.gotLeaves
		}
	}
	return 2*float64(m.gotLeaves+ahead)*took.Seconds() < float64(leaves)*now.Sub(m.joined).Seconds()
}

// swarmFails reports whether an origin may be asked for a leaf that others in
// the swarm have: peers have sent nothing for too long. Members of the swarm ask
// in their order, not all at once. Called with mu held.
func (s *scheduler) swarmFails(t *openLeaf, at moment) bool {
	quiet := at.now.Sub(latest(s.fromPeer, t.sharedAt))
	if quiet < patienceLeast {
		return false
	}
	return quiet > patience(s.fromPeer.Sub(s.began), s.peerBytes)*time.Duration(1+s.countBefore(t)) || s.starves(t, at)
}

// starves reports whether this node has received nothing at all for so long that
// its fetch would soon fail. Called with mu held.
func (s *scheduler) starves(t *openLeaf, at moment) bool {
	return at.idle > starveTime && at.idle > starveTime+time.Duration(s.countBefore(t))*starveStep
}
