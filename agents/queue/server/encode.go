package server

import (
	"encoding/json"
	"strconv"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// What is written here is what encoding/json would write. It is done by hand because
// these three answers carry all items, whose JSON is known to be good: the library would
// read each again.

// encodeEnqueued writes a queue.EnqueuedBatch.
func encodeEnqueued(items []queue.Enqueued) []byte {
	b := make([]byte, 0, 16+24*len(items))
	b = append(b, `{"items":[`...)
	for i := range items {
		b = comma(b, i)
		b = append(b, `{"id":"`...)
		b = appendID(b, items[i].ID)
		b = append(b, '"')
		if items[i].Duplicate {
			b = append(b, `,"duplicate":true`...)
		}
		b = append(b, '}')
	}
	return append(b, "]}\n"...)
}

// encodeClaimed writes a queue.ClaimResponse.
func encodeClaimed(res *queue.ClaimResponse) []byte {
	size := 64
	for i := range res.Items {
		size += 96 + len(res.Items[i].Item)
	}
	b := make([]byte, 0, size)
	b = append(b, `{"items":[`...)
	for i := range res.Items {
		it := &res.Items[i]
		b = comma(b, i)
		b = append(b, `{"id":"`...)
		b = appendID(b, it.ID)
		b = append(b, `","claim":`...)
		b = strconv.AppendUint(b, it.Claim, 10)
		if it.Failed != 0 {
			b = append(b, `,"failed":`...)
			b = strconv.AppendInt(b, int64(it.Failed), 10)
		}
		if it.Lost != 0 {
			b = append(b, `,"lost":`...)
			b = strconv.AppendInt(b, int64(it.Lost), 10)
		}
		b = append(b, `,"item":`...)
		b = append(b, it.Item...)
		b = append(b, '}')
	}
	b = append(b, ']')
	if res.Lease != 0 {
		b = append(b, `,"lease":"`...)
		b = append(b, res.Lease.String()...)
		b = append(b, '"')
	}
	if res.MaxRuntime != 0 {
		b = append(b, `,"max_runtime":"`...)
		b = append(b, res.MaxRuntime.String()...)
		b = append(b, '"')
	}
	if res.Finished {
		b = append(b, `,"finished":true`...)
	}
	return append(b, "}\n"...)
}

// encodeResults writes a queue.AckResults.
func encodeResults(results []queue.AckResult) []byte {
	b := make([]byte, 0, 16+48*len(results))
	b = append(b, `{"results":[`...)
	for i := range results {
		b = comma(b, i)
		b = append(b, `{"id":"`...)
		b = appendID(b, results[i].ID)
		b = append(b, `","verdict":"`...)
		b = append(b, results[i].Verdict...)
		b = append(b, '"')
		if why := results[i].Error; why != "" {
			text, err := json.Marshal(why)
			if err != nil { // a text can always be written
				text = []byte(`""`)
			}
			b = append(append(b, `,"error":`...), text...)
		}
		b = append(b, '}')
	}
	return append(b, "]}\n"...)
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

// appendID writes what queue.ID.String does.
func appendID(b []byte, id queue.ID) []byte {
	b = strconv.AppendInt(b, int64(id.Shard), 10)
	b = append(b, '-')
	return strconv.AppendUint(b, id.Seq, 10)
}
