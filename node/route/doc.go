// Package route decides, from offers and measured round trips, along which
// stages a session runs, and what that will cost. Which span a node should serve is
// the question of package placement. Route is pure: no clock, no socket, no
// goroutine.
//
// # Routes
//
// A decode step goes once around the ring: it costs every stage's compute and
// queue, and one way of every hop, from the last stage back to the first
// included. [Plan] finds the ring of least cost by dynamic programming over
// (first stage, stage), since only the closing hop depends on the first. A
// split that is slower than a route with fewer stages therefore never wins;
// [Compare] says what one costs that is forced.
//
// A stage runs the span its engine has loaded, whole: hops join where one span
// ends and the next begins.
//
// # Whose word counts
//
// An offer is a claim, and a claim costs nothing. So [Choose] asks first whether
// the node itself, or peers that its operator trusts, have all of the model: then
// that is the route, however fast others say they are, for what does not leave
// cannot be read. While these are full, a prompt waits some seconds ([ErrOwnFull]),
// and then goes on to others, as its user would. Where they have only a part of it,
// all routes give activations away, and speed decides; but their stages count half,
// so that a stranger's must be twice as fast.
//
// Strangers cost what [Price] makes of their claims: times what was seen, with
// marks for what went wrong on top. Who never did a session is a newcomer, and so
// is, for a day, who did fewer than a quarter of those of the best known beside
// him. A newcomer costs the median at best, is in a route only if there is no other,
// or in its turn, and then as the only one of it. A turn comes every tenth session:
// one who is given only those never comes to a quarter, so that a liar who is
// quick, and whose nonsense nobody can tell from an answer, gets one prompt in ten
// and no more. Where nobody is known, all are taken at once: a network that has
// just begun, and the first prompt of a new client, are as fast as ever.
//
// Peers that lied are used where there is nobody else, as are newcomers that
// failed. How much of a mark is left is the caller's to say.
package route
