// Package report makes what the API's endpoints about the node, the page and the
// metrics return: it reads snapshots of what others own, and owns nothing itself.
//
//	report.go  Reporter, what it reads, and what the metrics read at each scrape
//	status.go  the node itself, and the peers that are connected
//	health.go  what could be wrong with the node and around it
//	view.go    what the page shows
//
// What is served is read once per answer, as one serve.Snapshot, so that no answer
// contradicts itself; offers are read through package survey.
//
// The network is asked as little as the answer allows: Status and the metrics ask
// nobody; Peers and Health wait two seconds for offers at most; the page, which asks
// every second or so, gets what is known, and peers are asked for their load in the
// background, less often and only while somebody looks.
//
// # Why it is a package of its own
//
// Status, metrics, page and health each used to read the fields of a served span under
// the node's lock, each in its own way. Nothing here can change what it reports.
package report
