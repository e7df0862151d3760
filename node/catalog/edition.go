package catalog

import (
	"errors"
	"regexp"
	"slices"
)

// ErrOlder says that a newer edition of a signed catalogue has been taken.
var ErrOlder = errors.New("it is older than one that was taken")

// Edition is which one a signed catalogue is of those that its key has signed
// under the same name. Serial is 0 in catalogues that give none.
type Edition struct {
	Key    string `json:"key"` // base64
	Series string `json:"series,omitempty"`
	Serial int64  `json:"serial"`
	Date   string `json:"date,omitempty"` // of the edition, as 2006-01-02, for people
}

var (
	seriesForm = regexp.MustCompile(`^[a-z0-9._-]{0,64}$`)
	dateForm   = regexp.MustCompile(`^\d{4}-\d\d-\d\d$`)
)

func (f *file) checkEdition() error {
	if f.Serial < 0 {
		return errf("serial = %d; editions are counted from 1", f.Serial)
	}
	if !seriesForm.MatchString(f.Series) {
		return errf("the series %.80q: write it in lower case, without blanks", f.Series)
	}
	if !dateForm.MatchString(f.Date) && (f.Date != "" || f.Serial > 0) {
		return errf("date = %.40q; with a serial there is a date, such as 2006-01-02", f.Date)
	}
	return nil
}

// in gives the edition of the same series in a list, or the one numbered 0.
func (e Edition) in(list []Edition) Edition {
	for _, x := range list {
		if x.Key == e.Key && x.Series == e.Series {
			return x
		}
	}
	return Edition{Key: e.Key, Series: e.Series}
}

// merge puts an edition into a list in which each series stands once, if it is
// the newer one. Those without a number need not be remembered.
func merge(list []Edition, e Edition) []Edition {
	if old := e.in(list); e.Serial > old.Serial {
		return append(slices.DeleteFunc(list, func(x Edition) bool { return x == old }), e)
	}
	return list
}

// Editions are the newest ones of all series that were taken, now or before:
// what the next Load is to be given.
func (c *Catalog) Editions() []Edition { return slices.Clone(c.editions) }
