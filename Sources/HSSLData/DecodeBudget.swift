#if canImport(Glibc)
import Glibc
#endif

/// Memory that the threads decoding images share: who asks for more than is free waits, in the order of asking, so that
/// a large image comes to its turn.
final class DecodeBudget: @unchecked Sendable {  // everything mutable is guarded by `mutex`
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var total: Int
    private var used = 0
    private var nextTicket = 0
    private var serving = 0

    init(bytes: Int) {
        total = bytes
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(changed, nil)
    }

    deinit {
        pthread_cond_destroy(changed)
        pthread_mutex_destroy(mutex)
        changed.deallocate()
        mutex.deallocate()
    }

    private func locked<Result>(_ body: () -> Result) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return body()
    }

    /// Another total, from now on.
    func resize(to bytes: Int) {
        locked {
            total = bytes
            pthread_cond_broadcast(changed)
        }
    }

    /// Takes `bytes` when they are free and all who asked before have theirs. More than the total is given to who is
    /// alone.
    func take(_ bytes: Int) {
        locked {
            let ticket = nextTicket
            nextTicket += 1
            while serving != ticket || (used > 0 && used + bytes > total) { pthread_cond_wait(changed, mutex) }
            serving += 1
            used += bytes
            pthread_cond_broadcast(changed)
        }
    }

    /// Takes `bytes` more at once, or not at all: waiting with something in hand would keep others from finishing.
    func extend(by bytes: Int) -> Bool {
        locked {
            guard used + bytes <= total else { return false }
            used += bytes
            return true
        }
    }

    func give(_ bytes: Int) {
        locked {
            used -= bytes
            pthread_cond_broadcast(changed)
        }
    }
}
