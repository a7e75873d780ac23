package ibmcloudtest

import (
	"fmt"
	"maps"
	"net/url"
	"strconv"
)

// maxLimit is the most items that one page holds.
const maxLimit = 1000

// A page is the frame around a slice of a listing.
type page struct {
	TotalCount int   `json:"total_count"`
	Limit      int   `json:"limit"`
	Offset     int   `json:"offset"`
	First      link  `json:"first"`
	Last       link  `json:"last"`
	Next       *link `json:"next,omitempty"`
	Previous   *link `json:"previous,omitempty"`
}

type link struct {
	Href string `json:"href"`
}

// paginate returns the items that the query's offset and limit choose, and their frame.
func paginate[T any](in *call, items []T, defaultLimit int) (page, []T, error) {
	query := in.request.URL.Query()
	limit, err := queryNumber(query, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return page{}, nil, err
	}
	offset, err := queryNumber(query, "offset", 0, 0, 1<<31-1)
	if err != nil {
		return page{}, nil, err
	}
	total := len(items)
	p := page{TotalCount: total, Limit: limit, Offset: offset}
	at := func(offset int) link {
		other := maps.Clone(query)
		other.Set("limit", strconv.Itoa(limit))
		other.Set("offset", strconv.Itoa(offset))
		return link{in.href(other)}
	}
	p.First, p.Last = at(0), at(max(total-1, 0)/limit*limit)
	if offset+limit < total {
		next := at(offset + limit)
		p.Next = &next
	}
	if offset > 0 {
		previous := at(max(offset-limit, 0))
		p.Previous = &previous
	}
	return p, items[min(offset, total):min(offset+limit, total)], nil
}

// queryNumber reads a whole number of the query, within bounds.
func queryNumber(query url.Values, name string, absent, least, most int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, badField(name, fmt.Sprintf("must be a number from %d to %d", least, most))
	}
	return n, nil
}
