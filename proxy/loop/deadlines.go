package loop

import (
	"container/heap"
	"math"
	"time"
)

// deadlines has a loop's connections that wait for something until a certain time,
// the earliest first.
type deadlines []*Conn

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i+1, j+1
}

func (d *deadlines) Push(c any) {
	*d = append(*d, c.(*Conn))
	c.(*Conn).place = len(*d)
}

func (d *deadlines) Pop() any {
	last := len(*d) - 1
	c := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	c.place = 0
	return c
}

// set puts a connection where its deadline belongs; the zero time takes it out.
func (d *deadlines) set(c *Conn, due time.Time) {
	c.due = due
	switch {
	case due.IsZero() && c.place > 0:
		heap.Remove(d, c.place-1)
	case due.IsZero():
	case c.place > 0:
		heap.Fix(d, c.place-1)
	default:
		heap.Push(d, c)
	}
}

// first is the earliest; the zero time where there is none.
func (d deadlines) first() time.Time {
	if len(d) == 0 {
		return time.Time{}
	}
	return d[0].due
}

// wait is how many milliseconds there are until the first one, 0 if that is now;
// -1 where there is none.
func (d *deadlines) wait(now time.Time) int {
	if len(*d) == 0 {
		return -1
	}
	left := (*d)[0].due.Sub(now)
	return int(min(max((left+time.Millisecond-1)/time.Millisecond, 0), math.MaxInt32))
}

// pass tells those whose deadline has passed.
func (d *deadlines) pass(now time.Time) {
	for len(*d) > 0 && !now.Before((*d)[0].due) {
		(*d)[0].expire(now)
	}
}
