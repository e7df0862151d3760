// Package route decides, from offers and measured round trips, along which
// stages a session runs and what that will cost, and which span a node should
// serve. It is pure: no clock, no socket, no goroutine.
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
package route
