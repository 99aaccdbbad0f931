#if canImport(Glibc)
import Glibc
#endif

/// Produces items on threads of its own, ahead of the consumer, and hands them out in order.
///
/// Threads are pthreads, not Swift tasks: the cooperative pool is sized for code that never blocks, and decoding blocks
/// on files. What item i is depends on `produce(i)` alone, so neither the number of threads nor their timing changes
/// the sequence. At most `capacity` items are finished or under way beyond the one that was handed out last. One
/// consumer calls ``next()``; ``stop()`` may come from any thread.
public final class PrefetchLoader<Element: Sendable>: Sendable {
    private let queue: Queue<Element>

    /// - Parameters:
    ///   - count: items 0 ..< count are produced.
    ///   - threads: at least 1.
    ///   - capacity: how many items may wait; raised to `threads`.
    ///   - produce: called once an item, from several threads at a time.
    public init(count: Int, threads: Int, capacity: Int, produce: @escaping @Sendable (Int) throws -> Element) {
        let threads = max(threads, 1)
        queue = Queue(count: count, capacity: max(capacity, threads), produce: produce)
        queue.start(threads: min(threads, max(count, 0)))
    }

    deinit { queue.stop() }

    /// The next item in order, or the error that its production threw (the items after it still follow); waits for it.
    /// nil after the last item, and once the loader is stopped.
    public func next() -> Result<Element, any Error>? { queue.next() }

    /// Ends production: returns when every thread has finished the item it was at. A waiting ``next()`` returns nil.
    /// Repeated calls do nothing.
    public func stop() { queue.stop() }
}

/// The bounded queue between the threads and the consumer: a ring of `capacity` slots, item i in slot i mod capacity.
private final class Queue<Element: Sendable>: @unchecked Sendable {  // everything mutable is guarded by `mutex`
    private let count: Int
    private let capacity: Int
    private let produce: @Sendable (Int) throws -> Element

    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    /// Signalled when a slot becomes free or the queue stops.
    private let hasRoom = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    /// Signalled when an item is finished or the queue stops.
    private let hasItem = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    private var slots: [Result<Element, any Error>?]
    /// The next item that a thread takes on.
    private var claimed = 0
    /// The next item that the consumer gets.
    private var delivered = 0
    private var stopped = false
    private var threads: [pthread_t] = []

    init(count: Int, capacity: Int, produce: @escaping @Sendable (Int) throws -> Element) {
        self.count = count
        self.capacity = capacity
        self.produce = produce
        slots = Array(repeating: nil, count: capacity)
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(hasRoom, nil)
        pthread_cond_init(hasItem, nil)
    }

    deinit {
        pthread_cond_destroy(hasItem)
        pthread_cond_destroy(hasRoom)
        pthread_mutex_destroy(mutex)
        hasItem.deallocate()
        hasRoom.deallocate()
        mutex.deallocate()
    }

    func start(threads wanted: Int) {
        for _ in 0..<wanted {
            var thread = pthread_t()
            // The thread owns a reference; `stop` joins it before the queue goes.
            let reference = Unmanaged.passRetained(self as AnyObject)
            let code = pthread_create(&thread, nil, { context in
                guard let context else { return nil }
                let object = Unmanaged<AnyObject>.fromOpaque(context).takeRetainedValue()
                (object as? any Producer)?.run()
                return nil
            }, reference.toOpaque())
            guard code == 0 else {  // out of threads: go on with those there are, or with the consumer's
                reference.release()
                return
            }
            threads.append(thread)
        }
    }

    func next() -> Result<Element, any Error>? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        guard !stopped, delivered < count else { return nil }
        if threads.isEmpty {
            let index = delivered
            delivered += 1
            return Result { try produce(index) }
        }
        let slot = delivered % capacity
        while !stopped, slots[slot] == nil { pthread_cond_wait(hasItem, mutex) }
        guard !stopped else { return nil }
        let item = slots[slot]
        slots[slot] = nil
        delivered += 1
        pthread_cond_signal(hasRoom)
        return item
    }

    func stop() {
        pthread_mutex_lock(mutex)
        stopped = true
        let joining = threads
        threads = []
        slots = Array(repeating: nil, count: capacity)
        pthread_cond_broadcast(hasRoom)
        pthread_cond_broadcast(hasItem)
        pthread_mutex_unlock(mutex)
        for thread in joining { pthread_join(thread, nil) }
    }
}

private protocol Producer: AnyObject {
    func run()
}

extension Queue: Producer {
    /// A thread's life: claim, produce, put, until the last item or the stop.
    func run() {
        while let index = claim() {
            let result = Result { try produce(index) }
            pthread_mutex_lock(mutex)
            if !stopped { slots[index % capacity] = result }
            pthread_cond_broadcast(hasItem)
            pthread_mutex_unlock(mutex)
        }
    }

    private func claim() -> Int? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while !stopped, claimed < count, claimed - delivered >= capacity { pthread_cond_wait(hasRoom, mutex) }
        guard !stopped, claimed < count else { return nil }
        claimed += 1
        return claimed - 1
    }
}
