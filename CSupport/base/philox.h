// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): constants, shared by the scalar function and vector bodies.
#ifndef HSSL_PHILOX_H
#define HSSL_PHILOX_H

#define HSSL_PHILOX_M0 0xD2511F53u
#define HSSL_PHILOX_M1 0xCD9E8D57u
#define HSSL_PHILOX_W0 0x9E3779B9u
#define HSSL_PHILOX_W1 0xBB67AE85u
#define HSSL_PHILOX_ROUNDS 10

#endif
