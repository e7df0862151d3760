// Package keys holds the keys that callers of a node's API may have: who each is for,
// what it may do, and what it was used for.
//
// A key is 256 random bits. It is shown once, when it is made; the file has only its
// SHA-256, which is enough for random secrets, since nobody can guess 256 bits. The file
// is read at the start and has the mode 0600. A key that is presented is compared with
// all of them in constant time.
//
// # Limits
//
// A key may be limited in requests per minute (a bucket that holds one minute's),
// tokens per day (prompt and answer, days as in UTC), answers at the same time, models,
// and time. A limit of tokens is looked at when a request begins: the answer that crosses
// it is finished, and the next request is refused. Refusals are errors of package api,
// with the time after which it is worth trying again.
//
// # Usage
//
// Requests and tokens are counted for today and in total. They are written a minute
// after the first that is not in the file, and at Close; a crash loses at most that
// minute. Nothing else about a request is kept.
//
// # The key of the settings
//
// The setting api-key is a key named [Default], without limits. It is not in the file,
// but its usage is. A node has no key at all if there is neither.
package keys
