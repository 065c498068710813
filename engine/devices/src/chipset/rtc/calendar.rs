//! Seconds since 1970 to calendar dates and back, in the proleptic Gregorian calendar.

/// Days in 400 years, after which the calendar repeats.
const DAYS_PER_ERA: i128 = 146_097;
/// From 1 March of year 0 to 1 January 1970.
const DAYS_TO_1970: i128 = 719_468;

/// A date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: u16,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 1 is Sunday.
    pub(super) weekday: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl DateTime {
    /// The date and time `seconds` after the start of 1970. Years outside 0 to 65535 are cut to that.
    pub(super) fn from_seconds(seconds: i128) -> Self {
        let days = seconds.div_euclid(86_400);
        // Years that start in March have their leap day at the end, so months follow one formula: 153 days for every
        // five of them.
        let shifted = days + DAYS_TO_1970;
        let era = shifted.div_euclid(DAYS_PER_ERA);
        let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + i128::from(month <= 2);
        Self {
            year: u16::try_from(year.max(0)).unwrap_or(u16::MAX),
            month: small(month),
            day: small(day),
            // 1970 began on a Thursday.
            weekday: small((days + 4).rem_euclid(7) + 1),
            ..Self::from_time_of_day(u32::try_from(seconds.rem_euclid(86_400)).unwrap_or(0))
        }
    }

    /// The time of day that is `seconds` after midnight (of the same day or a later one), on the first of 1970.
    pub(super) fn from_time_of_day(seconds: u32) -> Self {
        let second_of_day = seconds % 86_400;
        Self {
            year: 1970,
            month: 1,
            day: 1,
            weekday: 5,
            hour: (second_of_day / 3600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        }
    }

    /// Seconds since the start of 1970. Fields past their range are carried into the next higher one, except for the
    /// month, which is cut to 1 to 12.
    pub(super) fn to_seconds(self) -> i128 {
        let month = i128::from(self.month.clamp(1, 12));
        let year = i128::from(self.year) - i128::from(month <= 2);
        let month_from_march = (month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + i128::from(self.day.max(1)) - 1;
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * DAYS_PER_ERA + day_of_era - DAYS_TO_1970;
        days * 86_400 + i128::from(self.hour) * 3600 + i128::from(self.minute) * 60 + i128::from(self.second)
    }

    /// 0 to 99.
    pub(super) fn century(&self) -> u8 {
        small(i128::from(self.year / 100 % 100))
    }

    /// 0 to 99.
    pub(super) fn year_of_century(&self) -> u8 {
        small(i128::from(self.year % 100))
    }
}

/// For numbers that are below 256 by construction.
fn small(number: i128) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u16, month: u8, day: u8, weekday: u8) -> DateTime {
        DateTime { year, month, day, weekday, hour: 23, minute: 59, second: 58 }
    }

    #[test]
    fn known_dates() {
        for (seconds, expected) in [
            (86_398, date(1970, 1, 1, 5)),
            (951_868_798, date(2000, 2, 29, 3)),
            (951_955_198, date(2000, 3, 1, 4)),
            (1_735_689_598, date(2024, 12, 31, 3)),
            (4_107_542_398, date(2100, 2, 28, 1)),
            (-2, date(1969, 12, 31, 4)),
        ] {
            assert_eq!(DateTime::from_seconds(seconds), expected);
            assert_eq!(expected.to_seconds(), seconds);
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..DAYS_PER_ERA {
            let seconds = day * 86_400 + 12_345;
            assert_eq!(DateTime::from_seconds(seconds).to_seconds(), seconds);
        }
    }

    #[test]
    fn impossible_dates_are_carried_over() {
        let mut april = date(2025, 4, 31, 0);
        assert_eq!(DateTime::from_seconds(april.to_seconds()).month, 5);
        april.month = 0xff;
        april.second = 0xff;
        april.to_seconds();
    }
}
