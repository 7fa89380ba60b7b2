package queue

// Led returns the numbers of those shards of a queue that this broker leads and has read,
// rising.
func (b *Broker) Led(queue string) []int {
	q, err := b.queue(queue)
	if err != nil {
		return nil
	}
	var led []int
	for k, sh := range q.shards {
		sh.mu.Lock()
		if sh.term != nil {
			led = append(led, k)
		}
		sh.mu.Unlock()
	}
	return led
}

// Check says whether a queue with this configuration can take an item. The error is a
// *FieldError.
func (c Config) Check(it *Item) error {
	if _, err := it.check(); err != nil {
		return err
	}
	if it.Stage == "" {
		return nil
	}
	names := make([]string, len(c.Stages))
	for i, s := range c.Stages {
		if names[i] = s.Name; s.Name == it.Stage {
			return nil
		}
	}
	return fieldErrorf("stage", "%q is not one of %q", it.Stage, names)
}
